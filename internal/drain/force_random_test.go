package drain_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// drains is how many random drains are run in memory; QUIESCE_SEED selects one. Goroutines that wake at the same moment run in any order,
// so a failure may need some repetitions.
const drains = 300

// The promises about force hold whatever the pods, their PDBs, their grace periods and the errors.
func TestForce_RandomNodes_PromisesHold(t *testing.T) {
	from, to := uint64(0), uint64(drains)
	if seed, err := strconv.ParseUint(os.Getenv("QUIESCE_SEED"), 10, 64); err == nil {
		from, to = seed, seed+1
	}
	for seed := from; seed < to && !t.Failed(); seed++ {
		bubble.Test(t, func(t *testing.T) {
			r := newRandomDrain(seed)
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(r.events, "\n"))
					t.Logf("again: QUIESCE_SEED=%d go test -count=300 -failfast -run %s ./internal/drain", seed, t.Name())
				}
			}()
			r.run(t)
		})
	}
}

// randomDrain is one random drain, and the requests it sent.
type randomDrain struct {
	*draintest.Cluster
	*rand.Rand
	limits drain.Limits
	pods   map[string]drain.Pod
	leads  map[string]time.Duration // of its phase
	// evictTakes and deleteTakes are how long the API server takes.
	evictTakes, deleteTakes time.Duration

	mutex   sync.Mutex
	asked   map[string][]time.Time // evictions
	stopped map[string]int         // requests that told the pod to stop
	forced  map[string]bool
	broken  []string
	events  []string
}

func (r *randomDrain) log(what, pod string, err error) {
	r.events = append(r.events, fmt.Sprintf("%7.1f s: %s %s: %v", time.Until(r.limits.Deadline).Seconds(), what, pod, err))
}

func newRandomDrain(seed uint64) *randomDrain {
	r := &randomDrain{
		Cluster: draintest.New(), Rand: rand.New(rand.NewPCG(seed, 2)), pods: map[string]drain.Pod{}, leads: map[string]time.Duration{},
		asked: map[string][]time.Time{}, stopped: map[string]int{}, forced: map[string]bool{},
	}
	whole := time.Duration(10+r.IntN(1200)) * time.Second
	r.limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(whole), Force: true}
	for _, budget := range []string{"x", "y"} {
		if r.IntN(4) > 0 {
			r.Allow(budget, max(0, r.IntN(4)-2))
		}
	}
	times := []time.Duration{0, 0, 20 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond}
	r.evictTakes, r.deleteTakes = times[r.IntN(len(times))], times[r.IntN(len(times))]
	r.Slow(r.evictTakes, r.deleteTakes)
	r.events = append(r.events, fmt.Sprintf("%s, answers take %s and %s", whole, r.evictTakes, r.deleteTakes))
	for i := range 1 + r.IntN(10) {
		r.add(i)
	}
	return r
}

func (r *randomDrain) add(i int) {
	phase := []string{"poolers", "", "", "critical"}[r.IntN(4)]
	p := graced(fmt.Sprint("pod-", i), []time.Duration{0, s, 5 * s, 30 * s, time.Minute, 20 * time.Minute}[r.IntN(6)],
		"phase", phase, "budget", []string{"x", "y", "none"}[r.IntN(3)])
	if r.IntN(5) == 0 {
		p = held(p)
	}
	if phase == "poolers" {
		r.leads[p.Name] = 20 * s
	}
	r.pods[p.Name] = p
	r.events = append(r.events, fmt.Sprintf("%s: grace %s, %v %v", p.Name, p.Grace, p.Labels, p.Annotations))
	r.Add(p, time.Duration(r.IntN(90))*s)
	for range r.IntN(4) {
		r.Fail("app/"+p.Name, errors.New("internal error"))
	}
	if r.IntN(8) == 0 {
		r.Deny("app/"+p.Name, denial)
	}
	if r.IntN(8) == 0 {
		r.Fail("delete app/"+p.Name, errors.New("internal error"))
	}
}

// phases returns phases with every kind of bound, one of them with an escort.
func (r *randomDrain) phases() []drain.Phase {
	timeout := func() time.Duration { return []time.Duration{0, s, 5 * time.Minute}[r.IntN(3)] }
	e := &escort{ready: time.Duration(r.IntN(30)) * s, linger: time.Duration(r.IntN(10)) * s, options: []drain.EvictOptions{{DryRun: true}, {}}}
	return []drain.Phase{
		{Name: "poolers", Match: labeled("poolers"), Escort: e, Lead: 20 * s, Timeout: timeout(), Settle: 3 * s},
		{Name: "workloads", Timeout: timeout()},
		{Name: "critical", Match: labeled("critical"), Timeout: timeout()},
	}
}

func (r *randomDrain) run(t *testing.T) {
	if r.IntN(2) == 0 { // a PDB gets room, once
		time.AfterFunc(time.Duration(r.IntN(600))*s, func() { r.Allow("x", 1) })
	}
	by := drainer(r.phases()...)
	by.Limits, by.Records = r.limits, &draintest.Records{}
	ctx, cancel := context.WithDeadline(t.Context(), r.limits.Deadline)
	defer cancel()
	report, state := by.Drain(ctx, r, drain.Node{})
	require.Empty(t, r.broken)
	report.CloseRemaining(state, "deadline reached")
	for _, p := range report.Pods {
		require.Equal(t, 1, r.stopped[p.Name], "%s was told to stop %d times: %s, %s", p.Name, r.stopped[p.Name], p.Outcome, p.Reason)
		require.Equal(t, r.forced[p.Name], p.Outcome == drain.Forced, "%s: %s", p.Name, p.Outcome)
		require.Equal(t, r.forced[p.Name], !p.ForcedAt.IsZero())
	}
	time.Sleep(time.Hour) // until all that stops has stopped
}

func (r *randomDrain) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	running, sent := r.running(ref.Name), time.Now()
	err := r.Cluster.Evict(ctx, ref, o)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if o.DryRun {
		return err
	}
	if given := cmp.Or(o.Grace, r.pods[ref.Name].Grace); given > max(s, r.limits.Deadline.Sub(sent)+s) {
		r.breaks("%s is evicted with %s, %s before the deadline", ref, given, r.limits.Deadline.Sub(sent))
	}
	if held := r.pods[ref.Name].Annotations != nil; held && time.Now().Before(r.half()) {
		r.breaks("%s is held, and evicted in the first half", ref)
	}
	r.log("evict", ref.Name, err)
	r.asked[ref.Name] = append(r.asked[ref.Name], time.Now())
	if running && err == nil {
		r.stopped[ref.Name]++
	}
	return err
}

func (r *randomDrain) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	running, others, sent := r.running(ref.Name), r.stopping(ref.Name), time.Now()
	err := r.Cluster.Delete(ctx, ref, grace)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.log("delete", ref.Name, err)
	r.check(ref.Name, sent, grace, others)
	if running && err == nil {
		r.stopped[ref.Name]++
		r.forced[ref.Name] = true
	}
	return err
}

// check notes which promises this deletion, sent now, breaks. others are the deleted pods of its PDB that still stop.
func (r *randomDrain) check(name string, now time.Time, grace time.Duration, others []string) {
	p := r.pods[name]
	if now.Before(r.half()) {
		r.breaks("%s is deleted in the first half", name)
	}
	if len(r.asked[name]) == 0 {
		r.breaks("%s is deleted untried", name)
	}
	if grace < s || grace > max(p.Grace, s) || grace > max(s, r.limits.Deadline.Sub(now)+s) {
		r.breaks("%s gets %s of its %s, %s before the deadline", name, grace, p.Grace, r.limits.Deadline.Sub(now))
	}
	own := r.limits.Deadline.Add(-r.needs(p) - r.askingAll())
	if own.Before(r.half()) {
		own = r.half()
	}
	if now.Before(own) && len(others) > 0 {
		r.breaks("%s is deleted while %v stop, though it has time", name, others)
	}
	if earliest := r.limits.Deadline.Add(-r.sum(p) - r.askingAll()); now.Before(earliest) {
		r.breaks("%s is deleted %s too early", name, earliest.Sub(now))
	}
}

func (r *randomDrain) breaks(format string, a ...any) {
	r.broken = append(r.broken, fmt.Sprintf(format, a...))
}

func (r *randomDrain) half() time.Time {
	return r.limits.StartedAt.Add(r.limits.Deadline.Sub(r.limits.StartedAt) / 2)
}

// askingAll returns what it takes at most to ask for all pods one after the other.
func (r *randomDrain) askingAll() time.Duration {
	return time.Duration(len(r.pods)) * (max(asking, r.evictTakes, r.deleteTakes) + max(r.evictTakes, s))
}

func (r *randomDrain) needs(p drain.Pod) time.Duration { return max(p.Grace, 2*s) + r.leads[p.Name] }

// sum returns what all pods of its PDB need.
func (r *randomDrain) sum(p drain.Pod) (sum time.Duration) {
	if p.Labels["budget"] == "none" {
		return r.needs(p)
	}
	for _, other := range r.pods {
		if other.Labels["budget"] == p.Labels["budget"] {
			sum += r.needs(other)
		}
	}
	return sum
}

func (r *randomDrain) running(name string) bool {
	for _, p := range r.Pods() {
		if p.Name == name {
			return !p.Terminating()
		}
	}
	return false
}

// stopping returns the pods of the same PDB that were deleted and are not gone.
func (r *randomDrain) stopping(name string) (others []string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	budget := r.pods[name].Labels["budget"]
	for _, p := range r.Pods() {
		if p.Name != name && budget != "none" && p.Labels["budget"] == budget && p.Terminating() && r.forced[p.Name] {
			others = append(others, p.Name)
		}
	}
	return others
}
