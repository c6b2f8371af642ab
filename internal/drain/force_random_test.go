package drain_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
)

// drains is how many random drains are done in memory; QUIESCE_SEED names the one to be repeated. What runs at the same moment
// runs in any order, and backoffs have jitter: it may take some repetitions.
const drains = 300

// Whatever the pods, their budgets, their graces and the troubles on the way: what is promised about force holds.
func TestForceKeepsItsPromisesWhateverTheNodeIsLike(t *testing.T) {
	from, to := uint64(0), uint64(drains)
	if seed, err := strconv.ParseUint(os.Getenv("QUIESCE_SEED"), 10, 64); err == nil {
		from, to = seed, seed+1
	}
	for seed := from; seed < to && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			r := newTrial(seed)
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(r.story, "\n"))
					t.Logf("again: QUIESCE_SEED=%d go test -count=300 -failfast -run %s ./internal/drain", seed, t.Name())
				}
			}()
			r.run(t)
		})
	}
}

// trial is one random drain, and what was asked of its node.
type trial struct {
	*draintest.Cluster
	*rand.Rand
	limits drain.Limits
	pods   map[string]drain.Pod
	leads  map[string]time.Duration // of its phase

	mutex  sync.Mutex
	asked  map[string][]time.Time // evictions
	told   map[string]int         // to stop: evictions and deletions that had an effect
	forced map[string]bool
	faults []string
	story  []string
}

func (r *trial) tell(what, pod string, err error) {
	r.story = append(r.story, fmt.Sprintf("%7.1f s: %s %s: %v", time.Until(r.limits.Deadline).Seconds(), what, pod, err))
}

func newTrial(seed uint64) *trial {
	r := &trial{
		Cluster: draintest.New(), Rand: rand.New(rand.NewPCG(seed, 2)), pods: map[string]drain.Pod{}, leads: map[string]time.Duration{},
		asked: map[string][]time.Time{}, told: map[string]int{}, forced: map[string]bool{},
	}
	whole := time.Duration(10+r.IntN(1200)) * time.Second
	r.limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(whole), Force: true}
	for _, budget := range []string{"x", "y"} {
		if r.IntN(4) > 0 {
			r.Allow(budget, max(0, r.IntN(4)-2))
		}
	}
	for i := range 1 + r.IntN(10) {
		r.add(i)
	}
	return r
}

func (r *trial) add(i int) {
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
	r.story = append(r.story, fmt.Sprintf("%s: grace %s, %v %v", p.Name, p.Grace, p.Labels, p.Annotations))
	r.Add(p, time.Duration(r.IntN(90))*s)
	for range r.IntN(4) {
		r.Fail("app/"+p.Name, errors.New("trouble"))
	}
	if r.IntN(8) == 0 {
		r.Fail("delete app/"+p.Name, errors.New("trouble"))
	}
}

// phases have every kind of bound, and an escort that takes its time.
func (r *trial) phases() []drain.Phase {
	timeout := func() time.Duration { return []time.Duration{0, s, 5 * time.Minute}[r.IntN(3)] }
	e := &escort{ready: time.Duration(r.IntN(30)) * s, linger: time.Duration(r.IntN(10)) * s, options: []drain.EvictOptions{{DryRun: true}, {}}}
	return []drain.Phase{
		{Name: "poolers", Match: labelled("poolers"), Escort: e, Lead: 20 * s, Timeout: timeout(), Settle: 3 * s},
		{Name: "workloads", Timeout: timeout()},
		{Name: "critical", Match: labelled("critical"), Timeout: timeout()},
	}
}

func (r *trial) run(t *testing.T) {
	if r.IntN(2) == 0 { // somebody makes room in a budget, once
		time.AfterFunc(time.Duration(r.IntN(600))*s, func() { r.Allow("x", 1) })
	}
	by := drainer(r.phases()...)
	by.Limits = r.limits
	ctx, cancel := context.WithDeadline(t.Context(), r.limits.Deadline)
	defer cancel()
	report, state := by.Drain(ctx, r, drain.Node{})
	require.Empty(t, r.faults)
	report.CloseRemaining(state, "deadline reached")
	for _, p := range report.Pods {
		require.Equal(t, 1, r.told[p.Name], "%s was told to stop %d times: %s, %s", p.Name, r.told[p.Name], p.Outcome, p.Reason)
		require.Equal(t, r.forced[p.Name], p.Outcome == drain.Forced, "%s: %s", p.Name, p.Outcome)
		require.Equal(t, r.forced[p.Name], !p.ForcedAt.IsZero())
	}
	time.Sleep(time.Hour) // until all that stops has stopped
}

func (r *trial) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	running := r.running(ref.Name)
	err := r.Cluster.Evict(ctx, ref, o)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if o.DryRun {
		return err
	}
	if held := r.pods[ref.Name].Annotations != nil; held && time.Now().Before(r.half()) {
		r.fault("%s is held, and asked to leave in the first half", ref)
	}
	r.tell("evict", ref.Name, err)
	r.asked[ref.Name] = append(r.asked[ref.Name], time.Now())
	if running && err == nil {
		r.told[ref.Name]++
	}
	return err
}

func (r *trial) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	running, others := r.running(ref.Name), r.stopping(ref.Name)
	err := r.Cluster.Delete(ctx, ref, grace)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.tell("delete", ref.Name, err)
	r.check(ref.Name, grace, others)
	if running && err == nil {
		r.told[ref.Name]++
		r.forced[ref.Name] = true
	}
	return err
}

// check is what must be true of a pod that is deleted now, while others under its budget stop because they were.
func (r *trial) check(name string, grace time.Duration, others []string) {
	now, p := time.Now(), r.pods[name]
	if now.Before(r.half()) {
		r.fault("%s is deleted in the first half", name)
	}
	if len(r.asked[name]) == 0 {
		r.fault("%s is deleted untried", name)
	}
	if grace < s || grace > max(p.Grace, s) || grace > max(s, r.limits.Deadline.Sub(now)+s) {
		r.fault("%s gets %s of its %s, %s before the deadline", name, grace, p.Grace, r.limits.Deadline.Sub(now))
	}
	own := r.limits.Deadline.Add(-r.needs(p))
	if own.Before(r.half()) {
		own = r.half()
	}
	if now.Before(own) && len(others) > 0 {
		r.fault("%s is deleted while %v stop, though it has time", name, others)
	}
	if earliest := r.limits.Deadline.Add(-r.sum(p)); now.Before(earliest) {
		r.fault("%s is deleted %s before it is its turn", name, earliest.Sub(now))
	}
}

func (r *trial) fault(format string, a ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, a...))
}

func (r *trial) half() time.Time {
	return r.limits.StartedAt.Add(r.limits.Deadline.Sub(r.limits.StartedAt) / 2)
}

func (r *trial) needs(p drain.Pod) time.Duration { return max(p.Grace, 2*s) + r.leads[p.Name] }

// sum is what all the pods under its budget need.
func (r *trial) sum(p drain.Pod) (sum time.Duration) {
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

func (r *trial) running(name string) bool {
	for _, p := range r.Pods() {
		if p.Name == name {
			return !p.Terminating()
		}
	}
	return false
}

// stopping are the pods under the same budget that were forced and are not gone.
func (r *trial) stopping(name string) (others []string) {
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
