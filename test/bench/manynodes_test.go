package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	manyNodes   = 100
	podsPerNode = 30 // on each node
	// manyNodesEvictors is how many eviction requests the ideal client has in flight: with more, an API server on two cores gets
	// no faster.
	manyNodesEvictors = 64
	// manyNodesTimeout bounds the preparation and the drains of one fixture.
	manyNodesTimeout = 30 * time.Minute
	remainingNodes   = 2
)

// atOnce are the numbers of executions that are compared.
var atOnce = []int{10, 30, manyNodes}

// BenchmarkManyNodes terminates 100 nodes of 30 pods at once. They are drained by functions behind a queue, so many at a time, and by one
// client that only evicts and watches. The latter is the time that the API server needs for these evictions. The functions share its two
// cores.
func BenchmarkManyNodes(b *testing.B) {
	lab.Require(b)
	s := start(b)
	var ideal []time.Duration
	ours := map[int][]time.Duration{}
	round := 0
	for b.Loop() {
		round++
		i := newManyNodesFixture(b, s, fmt.Sprintf("ideal-many-%d", round))
		ideal = append(ideal, i.ideal())
		i.clear()
		for _, n := range atOnce {
			q := newManyNodesFixture(b, s, fmt.Sprintf("quiesce-%d-many-%d", n, round))
			ours[n] = append(ours[n], q.quiesce(n))
			q.clear()
		}
	}
	b.ReportMetric(median(ideal).Seconds(), "ideal-s")
	for _, n := range atOnce {
		b.ReportMetric(median(ours[n]).Seconds(), fmt.Sprintf("at-once-%d-s", n))
		b.ReportMetric(median(ours[n]).Seconds()/median(ideal).Seconds(), fmt.Sprintf("at-once-%d/ideal", n))
	}
	b.ReportMetric(0, "ns/op")
}

// manyNodesFixture is nodes full of pods to drain, and nodes to which the pods can move.
type manyNodesFixture struct {
	*fixture
	targets []env.Instance
	pods    int // on all of them
}

func newManyNodesFixture(b *testing.B, s *env.Env, name string) *manyNodesFixture {
	b.Helper()
	return fillManyNodes(b, s, name, podsPerNode, stopping)
}

func fillManyNodes(b *testing.B, s *env.Env, name string, podsPerNode int32, stopping string) *manyNodesFixture {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), manyNodesTimeout)
	b.Cleanup(cancel)
	w := &manyNodesFixture{fixture: &fixture{B: b, Env: s, ctx: ctx, name: name}}
	var err error
	w.targets, err = s.Group(ctx, name, manyNodes)
	require.NoError(b, err)
	w.stopping, w.pods = stopping, int(manyNodes*podsPerNode)
	w.fill(manyNodes * podsPerNode)
	_, err = s.Launch(ctx, name, remainingNodes)
	require.NoError(b, err)
	return w
}

// each calls do for each of the nodes, several at once.
func (w *manyNodesFixture) each(do func(n int, i env.Instance)) {
	slots := make(chan struct{}, evictors)
	var group sync.WaitGroup
	for n, i := range w.targets {
		slots <- struct{}{}
		group.Go(func() { defer func() { <-slots }(); do(n, i) })
	}
	group.Wait()
}

// ideal cordons all nodes, then evicts and watches.
func (w *manyNodesFixture) ideal() time.Duration {
	pods := w.Lab.Client().CoreV1().Pods(w.name)
	used := measureCPU(w.Env)
	began := time.Now()
	w.each(func(_ int, i env.Instance) { w.setUnschedulable(i, true) })
	all, err := pods.List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	go evictAll(w.ctx, w, w.Lab.Client(), all.Items, manyNodesEvictors)
	remaining := uidsOf(all.Items)
	for !w.awaitDeletions(remaining, all.ResourceVersion) { // a loaded server may end a watch at any time
		all, err = pods.List(w.ctx, metav1.ListOptions{})
		require.NoError(w, err)
		here := uidsOf(all.Items)
		maps.DeleteFunc(remaining, func(uid types.UID, _ bool) bool { return !here[uid] })
	}
	took := time.Since(began)
	used().report(w.B, "ideal-")
	return took
}

func uidsOf(pods []corev1.Pod) map[types.UID]bool {
	uids := map[types.UID]bool{}
	for _, pod := range pods {
		uids[pod.UID] = true
	}
	return uids
}

// awaitDeletions removes deleted pods from remaining. It reports whether none remains; false means that the watch ended before.
func (w *manyNodesFixture) awaitDeletions(remaining map[types.UID]bool, since string) (all bool) {
	watching, err := w.Lab.Client().CoreV1().Pods(w.name).Watch(w.ctx, metav1.ListOptions{ResourceVersion: since})
	require.NoError(w, err)
	defer watching.Stop()
	for len(remaining) > 0 {
		event, open := <-watching.ResultChan()
		if !open {
			return false
		}
		if pod, is := event.Object.(*corev1.Pod); is && event.Type == watch.Deleted {
			delete(remaining, pod.UID)
		}
	}
	return true
}

// quiesce returns the time from the events in the queue to the last completion, by so many warm functions.
func (w *manyNodesFixture) quiesce(atOnce int) time.Duration {
	queue := w.Queue(w.name)
	functions, users := make([]*env.Function, atOnce), make([]string, atOnce)
	w.each(func(n int, i env.Instance) {
		if n < atOnce {
			functions[n] = w.warm(queue, i)
		}
	})
	for n, f := range functions {
		users[n] = f.User
		defer f.Close()
	}
	before := len(w.requestsBy(users))
	replaced := w.watchReplacements(w.pods, w.elsewhere())
	terminated := map[string]time.Time{}
	for _, i := range w.targets {
		terminated[i.ID] = time.Now()
		w.AWS.SendMessage(queue.URL, string(w.AWS.Terminate(i.ID)[0].Body))
	}
	used := measureCPU(w.Env, functions...)
	began := time.Now()
	stop := w.Map(queue, 1, functions...)
	w.until(func() bool { return len(w.AWS.Messages(queue.URL)) == 0 })
	took := time.Since(began)
	used().report(w.B, fmt.Sprintf("at-once-%d-", atOnce))
	stop()
	var letGo []time.Duration
	for _, i := range w.targets {
		require.Len(w, w.AWS.Completions(i.ID), 1)
		require.False(w, w.AWS.Expired(i.ID))
		letGo = append(letGo, w.AWS.Completions(i.ID)[0].At.Sub(terminated[i.ID]))
	}
	w.ReportMetric(median(letGo).Seconds(), fmt.Sprintf("at-once-%d-let-go-p50-s", atOnce))
	w.ReportMetric(slices.Max(letGo).Seconds(), fmt.Sprintf("at-once-%d-let-go-max-s", atOnce))
	for _, f := range functions {
		require.NotContains(w, f.Output(), "client-side throttling")
	}
	requests := w.requestsBy(users)[before:]
	w.reportRequests(atOnce, requests)
	var evicted []time.Time
	for _, r := range requests {
		if r.Subresource == "eviction" && r.Code == http.StatusCreated {
			evicted = append(evicted, r.Done)
		}
	}
	reportReplaced(w.B, fmt.Sprintf("at-once-%d-", atOnce), untilReplaced(evicted, replaced()))
	return took
}

// elsewhere selects the pods of all other nodes.
func (w *manyNodesFixture) elsewhere() fields.Selector {
	var others []fields.Selector
	for _, i := range w.targets {
		others = append(others, fields.OneTermNotEqualSelector("spec.nodeName", i.Node))
	}
	return fields.AndSelectors(others...)
}

// reportRequests reports how many requests the drain of one node needed beside its evictions, and how many evictions were throttled.
func (w *manyNodesFixture) reportRequests(atOnce int, all []lab.Request) {
	kinds := map[string]int{}
	evictions, throttled := 0, 0
	for _, r := range all {
		if r.Subresource == "eviction" {
			evictions++
		} else {
			kinds[r.Verb+" "+r.Resource]++
		}
		if r.Code == http.StatusTooManyRequests {
			throttled++
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		w.Logf("%d at once: %.1f of %s per node", atOnce, float64(kinds[kind])/manyNodes, kind)
	}
	w.Logf("%d at once: %d evictions, %d requests throttled", atOnce, evictions, throttled)
	w.ReportMetric(float64(len(all)-evictions)/manyNodes, fmt.Sprintf("at-once-%d-requests/node", atOnce))
	w.ReportMetric(float64(throttled), fmt.Sprintf("at-once-%d-throttled", atOnce))
}

// warm starts a function and lets it connect to AWS and Kubernetes.
func (w *manyNodesFixture) warm(queue env.Queue, i env.Instance) *env.Function {
	f, err := w.Function(w.ctx, "autoScalingGroups: ["+w.name+"]\nmode: drain\n", queue.Environment()...)
	require.NoError(w, err)
	plan, err := json.Marshal(termination.Request{Action: termination.ActionPlan, InstanceID: i.ID})
	require.NoError(w, err)
	result, err := f.Invoke(w.ctx, plan)
	require.NoError(w, err)
	require.Empty(w, result.ErrorType, result.ErrorMessage)
	return f
}

func (w *manyNodesFixture) requestsBy(users []string) []lab.Request {
	all, err := w.Lab.Audit().By(users...)
	require.NoError(w, err)
	return all
}
