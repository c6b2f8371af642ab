package drain

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// blockedRecheck is the safety net under the budget watch: a blocked pod is asked again after this long though no
	// change was seen. Shorter would hammer a budget that everybody waits for, longer would make a lost change expensive.
	blockedRecheck = 10 * time.Second
	// acceptedRecheck is how long an accepted eviction may show no effect in the watched store before it is asked for again.
	acceptedRecheck = 30 * time.Second
	// escortPace keeps a blocked escort from being tried at every change of every pod, which its own marks are as well. An
	// eviction costs one request, an escort a dozen; a second later than its budget's room is soon enough for it.
	escortPace = time.Second
)

// Drainer empties nodes.
type Drainer struct {
	Phases      []Phase
	Limits      Limits  // of the drain that is to be done
	Records     Records // of that drain; nil: none can be kept, and escorts that must keep some evict plainly
	Concurrency int     // evictions under way at once, one node
	Log         *slog.Logger
}

// Drain evicts the node's pods, phase by phase, until none is left that must go, or until ctx ends: the report's Remaining
// tells which.
func (d Drainer) Drain(ctx context.Context, cluster Cluster, node Node) Report {
	return d.Resume(ctx, cluster, node, Report{})
}

// Resume drains on where another drain of the node has ended, with other limits say: with its clocks, and in its books.
func (d Drainer) Resume(ctx context.Context, cluster Cluster, node Node, before Report) Report {
	r := &run{
		Drainer: d, cluster: cluster, node: node, clocks: before.clocks(d.Phases),
		asked: map[Ref]*ask{}, answers: make(chan answer), ledger: newLedger(d.Phases), pace: pace{most: d.Concurrency, now: d.Concurrency},
	}
	r.ledger.goOn(before)
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

// Evictable are the pods that a drain would evict.
func (d Drainer) Evictable(pods []Pod, node Node) []Pod {
	var wanted []Pod
	for _, p := range d.first(pods, node).Pods {
		if p.Verdict == Evict || p.Verdict == Hold {
			wanted = append(wanted, p.Pod)
		}
	}
	return wanted
}

func (d Drainer) first(pods []Pod, node Node) Plan {
	return Make(View{
		Now: time.Now(), Node: node, Pods: pods, Phases: d.Phases, Clocks: make([]Clock, len(d.Phases)), RecordedPhases: d.recordedPhases(pods),
	})
}

// run is one drain. Its loop alone touches its fields; evictions under way send their answers to it.
type run struct {
	Drainer
	cluster  Cluster
	node     Node
	lost     time.Time // when its kubelet was first not heard of; zero: it is
	clocks   []Clock
	asked    map[Ref]*ask
	evicting int // evictions under way
	underWay int // the same, and escorts
	changes  int // of the cluster, as counted by the loop
	answers  chan answer
	ledger   *ledger
	pace     pace
}

// loop returns when nothing is left to do, or when there is no more time to do it.
func (r *run) loop(ctx context.Context) {
	defer r.join()
	for {
		wake, done := r.pass(ctx)
		if done || !r.await(ctx, wake) {
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
	wake = earliest(r.look(now), now.Add(blockedRecheck))
	pods := r.cluster.Pods()
	plan := Make(View{
		Now: now, Node: r.node, Pods: pods, Phases: r.Phases, Clocks: r.clocks, Limits: r.Limits, RecordedPhases: r.recordedPhases(pods),
	})
	r.logPhases(plan)
	r.clocks = plan.Clocks
	for _, ref := range r.ledger.see(plan, now) {
		r.Log.Info("pod gone", "pod", ref.String())
	}
	wake = earliest(wake, plan.Wake)
	for _, pod := range plan.Pods {
		r.ask(pod.Ref).come(pod.Due)
		if pod.Open {
			wake = earliest(wake, r.act(ctx, pod, now))
		}
	}
	return wake, plan.Done() && r.underWay == 0
}

// act starts what there is to do about a pod if it is its turn, and says when else to look again; zero: something will tell.
func (r *run) act(ctx context.Context, pod Planned, now time.Time) (again time.Time) {
	escort, a := r.Phases[pod.Phase].Escort, r.asked[pod.Ref]
	switch {
	case a.underWay:
		return time.Time{}
	case pod.Verdict == Wait && escort != nil && !a.escorted && r.isRecorded(pod.Ref): // its escort crashed
	case !pod.wanted():
		return time.Time{}
	case escort == nil && !pod.Due && now.Before(r.pace.resting):
		return r.pace.resting
	case escort == nil && r.evicting >= r.pace.room(pod.Due):
		return time.Time{}
	case pod.Due && !a.tried && !a.accepted: // its moment has come: there is nothing more to be waited for
	case now.Before(a.earliest):
		return a.earliest
	case now.Before(a.again) && !(a.blocked && r.changes > a.changes):
		return a.again
	}
	r.start(ctx, pod, now)
	return time.Time{}
}

// wanted tells whether the pod is to be asked to leave. A held one is when its moment has come.
func (p Planned) wanted() bool { return p.Verdict == Evict || p.Verdict == Hold && p.Due }

func (r *run) ask(pod Ref) *ask {
	if r.asked[pod] == nil {
		r.asked[pod] = &ask{}
	}
	return r.asked[pod]
}

// start asks for a pod's eviction: its escort does that, while there is time for one. If the pod's moment has come and it has
// been refused, its deletion.
func (r *run) start(ctx context.Context, pod Planned, now time.Time) {
	a := r.asked[pod.Ref]
	a.underWay, a.accepted, a.tried, a.changes, a.at = true, false, pod.Due, r.changes, now
	r.underWay++
	if escort := r.Phases[pod.Phase].Escort; escort != nil && r.hasTime(a, pod, now) {
		a.escorted = true
		r.Log.Info("escort began", "pod", pod.String())
		go r.escort(ctx, escort, pod, a)
		return
	}
	r.evicting++
	if a.refused {
		go r.force(ctx, pod, now)
		return
	}
	go r.evict(ctx, pod, now)
}

// take enters an answer into the books, and decides when the pod may be asked again.
func (r *run) take(got answer) {
	a, entry, now := r.asked[got.pod], r.ledger.pods[got.pod], time.Now()
	r.finish(a, entry, got)
	if got.err == nil {
		r.accepted(a, entry, got, now)
		return
	}
	var blocked *Blocked
	if errors.As(got.err, &blocked) {
		a.failures, a.blocked, a.again = 0, true, now.Add(blockedRecheck)
		entry.block(blocked, now)
		r.say(a, "eviction blocked", got)
	} else {
		a.again = now.Add(r.patience(a, max(backoff(got.pod, a.failures), serverWish(got.err)), now))
		a.failures++
		r.pace.heed(got.err, a.at, a.again)
		entry.fail(got, now)
		r.say(a, got.failed(), got)
	}
	switch {
	case got.escorted != nil: // which does not wait where there is no time for another escort
		a.again = earliest(a.again, a.leaveBy)
	case a.tried && got.forced == 0: // its deletion follows at once
		a.refused, a.again, a.failures = true, a.earliest, 0
	}
}

func (r *run) accepted(a *ask, entry *PodReport, got answer, now time.Time) {
	a.accepted, a.failures, a.again = true, 0, now.Add(acceptedRecheck)
	r.pace.accepted()
	switch {
	case got.escorted != nil: // what was accepted was entered then
	case got.forced > 0:
		if entry.force(got, now) {
			r.Log.Warn("pod forced", "pod", got.pod.String(), "grace", got.forced.String(), "reason", entry.reason())
		}
	case entry.accept(now):
		r.Log.Info("pod evicted", "pod", got.pod.String())
	}
}

// finish takes what has answered for the last time off what is under way.
func (r *run) finish(a *ask, entry *PodReport, got answer) {
	if got.underWay {
		return
	}
	a.underWay, a.blocked = false, false
	r.underWay--
	if got.escorted == nil {
		r.evicting--
		a.earliest = time.Time{}
		return
	}
	a.earliest = earliest(time.Now().Add(escortPace), a.leaveBy)
	entry.Escort = got.escorted
	r.Log.Info("escort ended", "pod", got.pod.String(), "escort", got.escorted)
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
