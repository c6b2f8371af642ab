package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	waveNodes = 100
	wavePods  = 30 // of each
	// waveEvictors is how many evictions the ideal client keeps under way: beyond what two cores' API server answers faster for.
	waveEvictors = 64
	// wavePatience bounds one contestant's preparation and its drains.
	wavePatience = 30 * time.Minute
	refuges      = 2
)

// BenchmarkWave drains 100 nodes of 30 pods at once: by as many functions behind a queue, and by one client that only evicts and
// watches, which is what the API server takes for as many evictions. The functions share its two cores.
func BenchmarkWave(b *testing.B) {
	lab.Require(b)
	s := start(b)
	var ideal, ours []time.Duration
	round := 0
	for b.Loop() {
		round++
		i := newWave(b, s, fmt.Sprintf("ideal-wave-%d", round))
		ideal = append(ideal, i.ideal())
		i.clear()
		q := newWave(b, s, fmt.Sprintf("quiesce-wave-%d", round))
		ours = append(ours, q.quiesce())
		q.clear()
	}
	b.ReportMetric(median(ideal).Seconds(), "ideal-s")
	b.ReportMetric(median(ours).Seconds(), "quiesce-s")
	b.ReportMetric(median(ours).Seconds()/median(ideal).Seconds(), "quiesce/ideal")
	b.ReportMetric(0, "ns/op")
}

// waveArena is nodes full of pods that are to go, and others for the pods to go to.
type waveArena struct {
	*arena
	victims []env.Instance
}

func newWave(b *testing.B, s *env.Env, name string) *waveArena {
	ctx, cancel := context.WithTimeout(b.Context(), wavePatience)
	b.Cleanup(cancel)
	w := &waveArena{arena: &arena{B: b, Env: s, ctx: ctx, name: name}}
	var err error
	w.victims, err = s.Group(ctx, name, waveNodes)
	require.NoError(b, err)
	w.fill(waveNodes * wavePods)
	_, err = s.Launch(ctx, name, refuges)
	require.NoError(b, err)
	return w
}

// each does something for each of the nodes, some at once.
func (w *waveArena) each(do func(n int, i env.Instance)) {
	turns := make(chan struct{}, evictors)
	var group sync.WaitGroup
	for n, i := range w.victims {
		turns <- struct{}{}
		group.Go(func() { defer func() { <-turns }(); do(n, i) })
	}
	group.Wait()
}

// ideal closes all nodes, and then evicts and watches.
func (w *waveArena) ideal() time.Duration {
	pods := w.Lab.Client().CoreV1().Pods(w.name)
	began := time.Now()
	w.each(func(_ int, i env.Instance) { w.close(i, true) })
	all, err := pods.List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	go evictAll(w.ctx, w, w.Lab.Client(), all.Items, waveEvictors)
	left := uidsOf(all.Items)
	for !w.seeGo(left, all.ResourceVersion) { // a loaded server may end a watch at any time
		all, err = pods.List(w.ctx, metav1.ListOptions{})
		require.NoError(w, err)
		here := uidsOf(all.Items)
		maps.DeleteFunc(left, func(uid types.UID, _ bool) bool { return !here[uid] })
	}
	return time.Since(began)
}

func uidsOf(pods []corev1.Pod) map[types.UID]bool {
	uids := map[types.UID]bool{}
	for _, pod := range pods {
		uids[pod.UID] = true
	}
	return uids
}

// seeGo takes those off the list that it sees go, until none is left or, which is not all of it, the watch ends.
func (w *waveArena) seeGo(left map[types.UID]bool, since string) (all bool) {
	watching, err := w.Lab.Client().CoreV1().Pods(w.name).Watch(w.ctx, metav1.ListOptions{ResourceVersion: since})
	require.NoError(w, err)
	defer watching.Stop()
	for len(left) > 0 {
		event, open := <-watching.ResultChan()
		if !open {
			return false
		}
		if pod, is := event.Object.(*corev1.Pod); is && event.Type == watch.Deleted {
			delete(left, pod.UID)
		}
	}
	return true
}

// quiesce is from the events in the queue to the last completion, by functions that are warm.
func (w *waveArena) quiesce() time.Duration {
	queue := w.Queue(w.name)
	functions, users := make([]*env.Function, waveNodes), make([]string, waveNodes)
	w.each(func(n int, i env.Instance) { functions[n] = w.warm(queue, i) })
	for n, f := range functions {
		users[n] = f.User
		defer f.Close()
	}
	before := w.requestsBy(users)
	for _, i := range w.victims {
		w.AWS.SendMessage(queue.URL, string(w.AWS.Terminate(i.ID)[0].Body))
	}
	began := time.Now()
	stop := w.Map(queue, 1, functions...)
	w.until(func() bool { return len(w.AWS.Messages(queue.URL)) == 0 })
	took := time.Since(began)
	stop()
	for _, i := range w.victims {
		require.Len(w, w.AWS.Completions(i.ID), 1)
		require.False(w, w.AWS.Expired(i.ID))
	}
	for _, f := range functions {
		require.NotContains(w, f.Output(), "client-side throttling")
	}
	w.ReportMetric(float64(w.requestsBy(users)-before)/waveNodes, "requests/node")
	return took
}

// warm is a function that has spoken with AWS and Kubernetes.
func (w *waveArena) warm(queue env.Queue, i env.Instance) *env.Function {
	f, err := w.Function(w.ctx, "autoScalingGroups: ["+w.name+"]\nmode: drain\n", queue.Environment()...)
	require.NoError(w, err)
	plan, err := json.Marshal(termination.Request{Action: termination.ActionPlan, InstanceID: i.ID})
	require.NoError(w, err)
	result, err := f.Invoke(w.ctx, plan)
	require.NoError(w, err)
	require.Empty(w, result.ErrorType, result.ErrorMessage)
	return f
}

func (w *waveArena) requestsBy(users []string) int {
	all, err := w.Lab.Audit().By(users...)
	require.NoError(w, err)
	return len(all)
}
