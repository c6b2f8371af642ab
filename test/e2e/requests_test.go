package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/guard"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// extraRequests names the committed number of requests that a drain makes beside one eviction per pod: acquire the Lease, get the node,
	// save in the Lease what the cordon changes, cordon, watch the pods, watch the node, two Kubernetes events, watch the
	// VolumeAttachments, and release the Lease. Each watch begins with its list. Saving cannot be part of acquiring: the earliest receipt
	// in an existing Lease decides for which termination the node is closed.
	extraRequests = "requests of a drain beside evictions"
	// renewalInterval is how often a drain may make one more request, to renew its Lease.
	renewalInterval = 10 * time.Second
	// peakMemory is the most resident memory of a drain: half of a function of 128 MB.
	peakMemory = 64 << 20
)

// Every node of a refreshed group multiplies what one drain asks of the API server. With one request too many per pod, a few
// hundred nodes at once are throttled, and all of them lose time.
func TestDrain_ManyPods_OneRequestPerPodAndFewMore(t *testing.T) {
	for _, pods := range []int{30, 134, 500} {
		t.Run(fmt.Sprint(pods), func(t *testing.T) {
			s := newFixture(t, 1)
			s.fill(s.instances[0], pods)
			r := s.drain(s.instances[0])
			require.Empty(t, r.ErrorType, r.ErrorMessage)
			require.Equal(t, termination.StatusDrained, r.Status)
			require.Len(t, r.Pods, pods)

			all := s.requests(s.function)
			took, requests := r.FinishedAt.Sub(r.StartedAt), planned(all)
			if took < renewalInterval && len(requests) == len(all) {
				guard.Exact(t, extraRequests, len(requests)-pods)
			} else { // a busy machine
				require.LessOrEqual(t, len(requests), pods+guard.Number(t, extraRequests)+int(took/renewalInterval), "%v", byKind(s))
			}
			delay := s.AWS.Completions(s.instances[0].ID)[0].At.Sub(lastGone(r))
			t.Logf("%d pods: %d requests in %v; last pod gone to completion %v; evictions apart: %v", pods, len(requests), took, delay, byKind(s))
			t.Logf("%d pods: %d MB resident at the most", pods, s.function.MaxRSS()>>20)
			require.LessOrEqual(t, s.function.MaxRSS(), int64(peakMemory))
		})
	}
}

// Auto Scaling throttles the whole account, deployments included. A drain makes a fixed number of AWS calls, however many pods
// there are, and the function's policy must allow each action.
func TestDrain_ManyPods_FixedNumberOfAWSCalls(t *testing.T) {
	s := newFixture(t, 2)
	s.deploy("web", 12)
	r := s.drain(s.instances[0])
	require.Equal(t, termination.StatusDrained, r.Status)
	calls := map[string]int{}
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		calls[call.Service+":"+call.Action]++
	}
	t.Logf("calls: %v", calls)
	delete(calls, "sts:GetCallerIdentity") // the cluster sends it, to authenticate the caller
	if s.isInstanceAskedAgain(r.StartedAt) {
		calls["ec2:DescribeInstances"]--
	}
	require.Equal(t, map[string]int{
		"autoscaling:DescribeAutoScalingInstances":   1,
		"autoscaling:DescribeAutoScalingGroups":      1, // for terminating peers
		"autoscaling:DescribeScalingActivities":      1,
		"autoscaling:DescribeLifecycleHooks":         1,
		"autoscaling:RecordLifecycleActionHeartbeat": 1,
		"autoscaling:CompleteLifecycleAction":        1,
		"ec2:DescribeInstances":                      1,
		"eks:DescribeCluster":                        1, // only in the function's first drain
	}, calls)
}

// isInstanceAskedAgain reports whether a busy machine took so long to verify the event that EC2's first answer was too old.
func (s *fixture) isInstanceAskedAgain(began time.Time) bool {
	const tooOld = 2 * time.Second // verifyPace of internal/termination
	var asked []awstest.Call
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		if call.Action == "DescribeInstances" {
			asked = append(asked, call)
		}
	}
	return len(asked) == 2 && asked[1].At.Sub(began) >= tooOld
}

// fill puts bare pods on the node. No controller replaces them.
func (s *fixture) fill(i env.Instance, pods int) {
	s.Helper()
	template := s.template("web")
	onNode(i)(&template.Spec)
	s.each(pods, func(n int) error {
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name = fmt.Sprint("web-", n)
		_, err := s.Lab.Client().CoreV1().Pods(s.group).Create(s.ctx, pod, metav1.CreateOptions{})
		return err
	})
	s.until("they run", func() (bool, error) {
		waits := func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning }
		return !slices.ContainsFunc(s.podsOn(i), waits), nil
	})
}

// planned returns the requests without those that only a busy machine makes necessary: one that failed and is repeated, the read after
// a conflict, and the next watch after one that the server ended.
func planned(all []lab.Request) (planned []lab.Request) {
	conflicts := 0
	for _, r := range all {
		continued := r.Watch && strings.Contains(r.URI, "&resourceVersion=")
		switch {
		case r.Code == http.StatusConflict:
			conflicts++
		case r.Code >= http.StatusBadRequest, continued:
		case r.Verb == "get" && conflicts > 0:
			conflicts--
		default:
			planned = append(planned, r)
		}
	}
	return planned
}

// byKind counts the function's requests that are not evictions.
func byKind(s *fixture) map[string]int {
	kinds := map[string]int{}
	for _, r := range s.requests(s.function) {
		if r.Subresource != "eviction" {
			kinds[r.Verb+" "+r.Resource]++
		}
	}
	return kinds
}

func lastGone(r report) (last time.Time) {
	for _, p := range r.Pods {
		if p.GoneAt.After(last) {
			last = p.GoneAt
		}
	}
	return last
}
