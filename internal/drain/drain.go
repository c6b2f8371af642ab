package drain

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// blockedRecheck is the safety net under the budget watch: a blocked pod is asked again after this long though no
	// change was seen. Shorter would hammer a budget that everybody waits for, longer would make a lost change expensive.
	blockedRecheck = 10 * time.Second
	// acceptedRecheck is how long an accepted eviction may show no effect in the watched store before it is asked for again.
	acceptedRecheck = 30 * time.Second
	// Failed evictions are repeated after firstBackoff, doubling up to lastBackoff: quick enough that one lost request
	// costs nothing, slow enough that a server in trouble is not kept there.
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// Drainer empties nodes.
type Drainer struct {
	Phases      []Phase
	Concurrency int // evictions under way at once, one node
	Log         *slog.Logger
}

// Drain evicts the node's pods, phase by phase, until none is left that must go, or until ctx ends: the report's Remaining
// tells which.
func (d Drainer) Drain(ctx context.Context, cluster Cluster, node Node) Report {
	r := &run{
		Drainer: d, cluster: cluster, node: node, clocks: make([]Clock, len(d.Phases)),
		asked: map[Ref]*ask{}, answers: make(chan answer), ledger: newLedger(d.Phases),
	}
	r.loop(ctx)
	return r.ledger.report(r.clocks)
}

// Plan reports what a drain of these pods would begin with: verdicts and phases, and no outcomes.
func (d Drainer) Plan(pods []Pod, node Node) Report {
	plan := d.first(pods, node)
	ledger := newLedger(d.Phases)
	ledger.see(plan, time.Now())
	report := ledger.report(make([]Clock, len(d.Phases)))
	for i := range report.Pods {
		report.Pods[i].Outcome = ""
	}
	return report
}

// Wanted are the pods that a drain would evict.
func (d Drainer) Wanted(pods []Pod, node Node) []Pod {
	var wanted []Pod
	for _, p := range d.first(pods, node).Pods {
		if p.Verdict == Evict || p.Verdict == Hold {
			wanted = append(wanted, p.Pod)
		}
	}
	return wanted
}

func (d Drainer) first(pods []Pod, node Node) Plan {
	return Make(View{Now: time.Now(), Node: node, Pods: pods, Phases: d.Phases, Clocks: make([]Clock, len(d.Phases))})
}

// run is one drain. Its loop alone touches its fields; evictions under way send their answers to it.
type run struct {
	Drainer
	cluster  Cluster
	node     Node
	clocks   []Clock
	asked    map[Ref]*ask
	underWay int
	changes  int // of the cluster, as counted by the loop
	answers  chan answer
	ledger   *ledger
}

// ask is what is remembered of the evictions asked of one pod.
type ask struct {
	underWay bool
	blocked  bool
	changes  int       // of the cluster when it was asked
	again    time.Time // not to be repeated before
	failures int       // in a row
	said     string    // the last trouble logged
}

// answer is what came of one eviction.
type answer struct {
	pod Ref
	err error
}

func (r *run) loop(ctx context.Context) {
	defer r.join()
	for {
		wake, done := r.pass(ctx)
		if done {
			return
		}
		if !r.await(ctx, wake) {
			return
		}
	}
}

// await returns when there may be something new to do, and false when there is no more time to do it.
func (r *run) await(ctx context.Context, wake time.Time) bool {
	timer := time.NewTimer(time.Until(wake))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.cluster.Changed():
		r.changes++
	case a := <-r.answers:
		r.take(a)
	case <-timer.C:
	}
	return true
}

// join waits for evictions under way; their context has ended, so that it is not long.
func (r *run) join() {
	for r.underWay > 0 {
		r.take(<-r.answers)
	}
}

// pass looks at the node once, and starts what there is to do.
func (r *run) pass(ctx context.Context) (wake time.Time, done bool) {
	now := time.Now()
	plan := Make(View{Now: now, Node: r.node, Pods: r.cluster.Pods(), Phases: r.Phases, Clocks: r.clocks})
	r.logPhases(plan)
	r.clocks = plan.Clocks
	for _, ref := range r.ledger.see(plan, now) {
		r.Log.Info("pod gone", "pod", ref.String())
	}
	wake = earliest(plan.Wake, now.Add(blockedRecheck))
	for _, pod := range plan.Pods {
		if pod.Open && pod.Verdict == Evict {
			wake = earliest(wake, r.evict(ctx, pod.Ref, now))
		}
	}
	return wake, plan.Done() && r.underWay == 0
}

// evict starts the pod's eviction if it is its turn, and says when else to look again; zero: something will tell.
func (r *run) evict(ctx context.Context, pod Ref, now time.Time) (again time.Time) {
	a := r.asked[pod]
	if a == nil {
		a = &ask{}
		r.asked[pod] = a
	}
	switch {
	case a.underWay || r.underWay >= r.Concurrency:
		return time.Time{}
	case now.Before(a.again) && !(a.blocked && r.changes > a.changes):
		return a.again
	}
	a.underWay, a.changes = true, r.changes
	r.underWay++
	go func() { r.answers <- answer{pod, r.cluster.Evict(ctx, pod)} }()
	return time.Time{}
}

// take enters an answer into the books, and decides when the pod may be asked again.
func (r *run) take(got answer) {
	a, entry, now := r.asked[got.pod], r.ledger.pods[got.pod], time.Now()
	a.underWay, a.blocked = false, false
	r.underWay--
	var blocked *Blocked
	switch {
	case got.err == nil:
		a.failures, a.again = 0, now.Add(acceptedRecheck)
		entry.accept(now)
		r.Log.Info("pod evicted", "pod", got.pod.String())
	case errors.As(got.err, &blocked):
		a.failures, a.blocked, a.again = 0, true, now.Add(blockedRecheck)
		entry.block(blocked)
		r.say(a, "eviction blocked", got)
	default:
		a.again = now.Add(max(backoff(a.failures), serverWish(got.err)))
		a.failures++
		entry.because(got.err.Error())
		r.say(a, "eviction failed", got)
	}
}

// say logs a trouble once, and again only when it changed.
func (r *run) say(a *ask, what string, got answer) {
	if said := got.err.Error(); said != a.said {
		a.said = said
		r.Log.Warn(what, "pod", got.pod.String(), "reason", said)
	}
}

func (r *run) logPhases(next Plan) {
	for i, phase := range r.Phases {
		before, after := r.clocks[i], next.Clocks[i]
		if before.Began.IsZero() && !after.Began.IsZero() {
			r.Log.Info("phase began", "phase", phase.Name)
		}
		if before.Emptied.IsZero() && !after.Emptied.IsZero() {
			r.Log.Info("phase emptied", "phase", phase.Name)
		}
	}
}

// backoff doubles with each failure, with a fifth of jitter so that pods refused together do not return together.
func backoff(failures int) time.Duration {
	wait := min(firstBackoff<<min(failures, 10), lastBackoff)
	return wait + rand.N(wait/5)
}

func serverWish(err error) time.Duration {
	var throttled *Throttled
	if errors.As(err, &throttled) {
		return throttled.After
	}
	return 0
}
