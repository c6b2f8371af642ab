package bench

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/termination"
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
)

// watchPause is the time between a watch that a busy server refused and the next: far below the times that are measured.
const watchPause = 20 * time.Millisecond

// percentile returns the least of the durations that so many percent of them do not exceed.
func percentile(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[max(0, (len(all)*percent+99)/100-1)]
}

func TestPercentile_OfDurations_LeastThatFewExceed(t *testing.T) {
	var all []time.Duration
	for n := range 200 {
		all = append(all, time.Duration(200-n))
	}
	require.EqualValues(t, 198, percentile(all, 99))
	require.EqualValues(t, 100, percentile(all, 50))
	require.EqualValues(t, 7, percentile([]time.Duration{7}, 99))
	require.Zero(t, percentile(nil, 99))
}

func TestClients_TwoDrains_WaitsAndReconnectsOfAll(t *testing.T) {
	at := func(connects int, wait time.Duration) []journal.Worker {
		return []journal.Worker{{Connects: connects, LongestStall: wait + time.Second/2, Pace: time.Second / 2}, {Connects: 1}}
	}
	var c clients
	c.add(at(1, 0), at(3, 3*time.Second))
	c.add(at(5, 0), at(6, 2*time.Second))
	require.Equal(t, 3*time.Second, percentile(c.waits, 99))
	require.Equal(t, 3, c.connects)
	require.Equal(t, 4, c.all)
}

// felt is what users feel of drains by the function.
type felt struct {
	replaced []time.Duration // of each pod, from its eviction to the readiness of its replacement
	letGo    []time.Duration // of each node, from its lifecycle action to the completion
}

// add adds a drain, given when replacements became ready. The drains of others have no report.
func (f *felt) add(a *fixture, ready []time.Time) {
	if a.last.answer == nil {
		return
	}
	var r termination.Report
	require.NoError(a, json.Unmarshal(a.last.answer, &r))
	var evicted []time.Time
	for _, p := range r.Pods {
		evicted = append(evicted, p.EvictedAt)
	}
	require.Len(a, ready, len(evicted))
	f.replaced = append(f.replaced, untilReplaced(evicted, ready)...)
	f.letGo = append(f.letGo, a.AWS.Completions(a.target.ID)[0].At.Sub(a.last.began))
}

func (f *felt) report(b *testing.B) {
	reportReplaced(b, "", f.replaced)
	b.ReportMetric(median(f.letGo).Seconds(), "let-go-s")
}

// untilReplaced returns the time from each eviction to the readiness of the replacement. A Deployment replaces pods in the order in which
// they leave.
func untilReplaced(evicted, ready []time.Time) (took []time.Duration) {
	slices.SortFunc(evicted, time.Time.Compare)
	slices.SortFunc(ready, time.Time.Compare)
	for n := range min(len(evicted), len(ready)) {
		took = append(took, ready[n].Sub(evicted[n]))
	}
	return took
}

func reportReplaced(b *testing.B, prefix string, took []time.Duration) {
	b.ReportMetric(percentile(took, 50).Seconds(), prefix+"replacement-p50-s")
	b.ReportMetric(percentile(took, 99).Seconds(), prefix+"replacement-p99-s")
}

// clients is what clients feel of drains of poolers and databases.
type clients struct {
	waits    []time.Duration // the longest of each client in each drain
	connects int             // connections made during the drains
	all      int
}

// add adds the journals of one drain's workers, before and after.
func (c *clients) add(before, after []journal.Worker) {
	c.waits = append(c.waits, poolers.Waits(after)...)
	c.connects += poolers.Connects(after) - poolers.Connects(before)
	c.all += len(after)
}

// report reports the wait that 99 of 100 clients do not exceed. Clients that recycle their connections reconnect without a drain, too.
func (c *clients) report(b *testing.B) {
	b.ReportMetric(percentile(c.waits, 99).Seconds(), "p99-wait-s")
	b.ReportMetric(float64(c.connects)/float64(c.all), "reconnects/client")
}

// watchReplacements notes when n pods of the nodes to which they move become ready. The returned function waits for them, and returns their
// times in order.
func (a *fixture) watchReplacements(n int, nodes fields.Selector) (wait func() []time.Time) {
	var ready []time.Time
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seen := map[types.UID]bool{}; len(ready) < n && a.ctx.Err() == nil; {
			a.eachReady(nodes, func(pod *corev1.Pod) (more bool) {
				if !seen[pod.UID] {
					seen[pod.UID], ready = true, append(ready, time.Now())
				}
				return len(ready) < n
			})
		}
	}()
	return func() []time.Time {
		<-done
		require.Len(a, ready, n, "replacements became ready in time")
		return ready
	}
}

// eachReady calls do for pods of these nodes, once they are ready, until it returns false or the watch ends.
func (a *fixture) eachReady(nodes fields.Selector, do func(*corev1.Pod) (more bool)) {
	watching, err := a.Lab.Client().CoreV1().Pods(a.name).Watch(a.ctx, metav1.ListOptions{FieldSelector: nodes.String()})
	if err != nil {
		time.Sleep(watchPause)
		return // the caller tries again until its time is over
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		pod, is := event.Object.(*corev1.Pod)
		if is && isReady(pod) && !do(pod) {
			return
		}
	}
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
