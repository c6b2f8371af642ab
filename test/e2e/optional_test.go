package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

// Everything before the first eviction helps the pods. None of it may be what they depend on: without the help they still have to be
// told to stop.
func TestHelp_Fails_PodsEvictedAllTheSame(t *testing.T) {
	for name, help := range map[string]struct {
		refuse func(*fixture)
		said   string // in the log or in the report: the drain goes on, and says so
	}{
		"cordon":               {(*fixture).denyCordon, "nodes must not be closed today"},
		"lease":                {(*fixture).denyLease, "no leases today"},
		"hook-settings":        {refuseCall("autoscaling", "DescribeLifecycleHooks"), "not authorized"},
		"activities":           {refuseCall("autoscaling", "DescribeScalingActivities"), "the first receipt of the event counts as the start"},
		"heartbeats":           {refuseCall("autoscaling", "RecordLifecycleActionHeartbeat"), "not authorized"},
		"instances":            {refuseCall("ec2", "DescribeInstances"), "not authorized"},
		"groups-without-peers": {refuseCall("autoscaling", "DescribeAutoScalingGroups"), "terminating peers are not tainted"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFixture(t, 2, escortedPhases)
			target := s.instances[0]
			s.runPodOn(target, "first", stopsAfter("100ms"))
			s.runPodOn(target, "second", stopsAfter("1s"))
			help.refuse(s)
			r := s.drain(target)
			require.Empty(t, r.ErrorType, r.ErrorMessage)
			require.Equal(t, termination.StatusDrained, r.Status, r.Reason)
			require.Empty(t, s.podsOn(target))
			for _, pod := range []string{"first", "second"} {
				require.Equal(t, drain.Evicted, r.pod(t, pod).Outcome)
				require.Len(t, s.evictions(pod), 1)
			}
			require.Contains(t, s.function.Output()+r.Reason, help.said)
			require.Less(t, r.FinishedAt.Sub(r.StartedAt), 40*time.Second)
			s.requireCompletedOnce(target)
		})
	}
}

// An escort changes poolers, and what it changed must outlive it. Without a Lease there is no place to keep that.
func TestLease_Denied_NoEscort(t *testing.T) {
	s := newFixture(t, 1, escortedPhases)
	target := s.instances[0]
	s.runPodOn(target, "pooler", labeled("app.kubernetes.io/name", "pgbouncer"), stopsAfter("100ms"))
	s.denyLease()
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status, r.Reason)
	require.NotContains(t, s.function.Output(), "escort started")
	require.Empty(t, s.podsOn(target))
	s.requireCompletedOnce(target)
}

// denyCordon makes a webhook deny the function's changes of the fixture's nodes.
func (s *fixture) denyCordon() {
	s.Helper()
	s.addWebhook(guarded{admissionregistrationv1.Update, "", "nodes", ""}, func(r *admissionv1.AdmissionRequest) denial {
		if r.UserInfo.Username == s.function.User || r.DryRun != nil && *r.DryRun {
			return denial{why: "nodes must not be closed today"}
		}
		return denial{}
	})
	s.until("the webhook denies", func() (bool, error) {
		_, err := s.Lab.Client().CoreV1().Nodes().Patch(s.ctx, s.instances[0].Node, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"probe":"1"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, nil
	})
}

// denyLease makes a webhook deny the function's Leases.
func (s *fixture) denyLease() {
	s.Helper()
	s.addWebhook(guarded{admissionregistrationv1.Create, "coordination.k8s.io", "leases", "quiesce"}, func(r *admissionv1.AdmissionRequest) denial {
		if r.UserInfo.Username == s.function.User || r.Name == s.group {
			return denial{why: "no leases today"}
		}
		return denial{}
	})
	s.until("the webhook denies", func() (bool, error) {
		_, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Create(s.ctx,
			&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: s.group}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, nil
	})
}

// refuseCall makes AWS refuse this call of the fixture's function.
func refuseCall(service, action string) func(*fixture) {
	return func(s *fixture) {
		s.Cleanup(s.AWS.Fail(service, action, awstest.Fault{
			Session: s.function.Session.Name, Code: http.StatusForbidden, ErrorCode: "AccessDenied", Message: "You are not authorized to do this",
		}))
	}
}
