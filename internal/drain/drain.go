package drain

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"
)

const (
	// blockedRecheck is the safety net under the watch of PDBs: a blocked eviction is repeated after this long though no change was
	// seen. Shorter would load the server where many pods are blocked, longer would make a lost change expensive.
	blockedRecheck = 10 * time.Second
	// acceptedRecheck is how long an accepted eviction may show no effect in the watched pods before it is repeated.
	acceptedRecheck = 30 * time.Second
	// escortInterval keeps a blocked escort from running again at every change of a pod; its own label is such a change. An eviction
	// costs one request, an escort a dozen. A second after the PDB has room is soon enough for it.
	escortInterval = time.Second
	// After a look at all pods, the loop rests for restFactor times as long as the look took, and for longestRest at most. Each pod causes
	// about five events. One look for each event would take CPU time that grows with the square of the pods. A longer rest would delay
	// the next evictions of a large node. With ten pods it is a fraction of a millisecond.
	restFactor  = 9
	longestRest = 50 * time.Millisecond
)

// Drainer drains nodes.
type Drainer struct {
	Phases  []Phase
	Limits  Limits  // of the next drain
	Records Records // of that drain; nil: none can be kept, and an escort that needs one only evicts
	// EarlierOnlyCopy reports whether an earlier drain recorded the pod of this UID as the only copy of its data. It is used without Records.
	// Nil: nothing is known of earlier drains.
	EarlierOnlyCopy func(uid string) bool
	Effort          Effort // of that drain
	Owners          Owners // of its pods; nil: they are not told
	// Recordon closes a node that is open, and returns when that was: before the call, if the node was closed already. Nil: it cannot be
	// closed. After Refused it is not called again.
	Recordon func(context.Context) (time.Time, error)
	// Taint closes the node with a taint while a pod delays the cordon. Nil: the node is tainted already, or cannot be. After Refused it is not
	// called again.
	Taint       func(context.Context) (time.Time, error)
	Concurrency int // evictions in flight at once, per node
	Log         *slog.Logger
}

// Effort is how much a drain attempts. Invocations that end without a hand-off lower it, so that no pod can keep the function from
// finishing.
type Effort int

// The efforts.
const (
	EffortFull      Effort = iota
	EffortNoEscorts        // every pod is evicted without an escort, and one that only its escort may evict in the last moments
	EffortMetadata         // the same, and the cluster is asked for the metadata of pods only
)

// Drain evicts the node's pods, phase by phase, until no pod remains that must go, or until ctx ends, which it does at the deadline at
// the latest. The report's Remaining says which. A request that is in flight at the deadline may end later: see Limits.AnswersBy.
func (d Drainer) Drain(ctx context.Context, cluster Cluster, node Node) (Report, State) {
	return d.Resume(ctx, cluster, node, State{})
}

// Resume continues a drain of the node that has ended: with the times of its phases and its report, and perhaps with other limits. After the
// zero State, the times are those that an earlier invocation recorded.
func (d Drainer) Resume(ctx context.Context, cluster Cluster, node Node, before State) (Report, State) {
	d.Phases = d.escortedPhases()
	node.Cordoned, node.TaintedOnly = cmp.Or(before.cordoned, node.Cordoned), node.TaintedOnly || before.tainted
	if before.clocks == nil {
		before.clocks = d.recordedClocks(node)
	}
	node.Unreachable = false // until this drain has seen that for unreachableGrace: it may have found the node in a bad moment
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{
		Drainer: d, cluster: cluster, node: node, state: before.resume(d.Phases), responses: make(chan response), recordons: make(chan recordonResult),
		pace: newPace(d.Concurrency),
	}
	var release context.CancelFunc
	r.requests, release = d.Limits.requestContext(ctx)
	defer release()
	r.loop(ctx, cancel)
	report := r.state.report(d.Phases)
	report.FinishedPods = cluster.FinishedPods()
	return report, r.state
}

// Plan reports what a drain of these pods would start with: verdicts and phases, without outcomes.
func (d Drainer) Plan(pods []Pod, node Node) Report {
	state := State{}.resume(d.Phases)
	state.observe(d.firstPlan(pods, node), d.Phases, time.Now())
	report := state.report(d.Phases)
	for i := range report.Pods {
		report.Pods[i].Outcome = ""
	}
	return report
}

// Evictable returns the pods that a drain would evict, held ones included.
func (d Drainer) Evictable(pods []Pod, node Node) []Pod {
	d.Phases = d.escortedPhases()
	var wanted []Pod
	for _, p := range d.firstPlan(pods, node).Pods {
		if p.Verdict == Evict || p.Verdict == Hold {
			wanted = append(wanted, p.Pod)
		}
	}
	return wanted
}

func (d Drainer) firstPlan(pods []Pod, node Node) Plan {
	return Make(View{
		Now: time.Now(), Node: node, Pods: pods, Phases: d.Phases, Clocks: make([]Clock, len(d.Phases)), RecordedPhases: d.recordedPhases(pods),
	})
}

// run is one drain. Only its loop uses its fields; the goroutines of requests send it their responses.
type run struct {
	Drainer
	cluster          Cluster
	node             Node
	unreachableSince time.Time // zero: the kubelet is reachable
	state            State
	evicting         int // evictions and deletions in flight
	inFlight         int // the same, and escorts
	changes          int // of the cluster, so far
	responses        chan response
	requests         context.Context   // of evictions and deletions
	candidates       map[string]string // by controller, the UID of the pod that came after the cordon and may be asked to leave
	recordoning      bool
	recordonDenied   bool
	taintDenied      bool
	recordonAt       time.Time // no next attempt before
	recordonFailures int       // in a row
	recordons        chan recordonResult
	pace             pace
}

// loop returns when nothing is left to do, or when ctx ends.
func (r *run) loop(ctx context.Context, cancel context.CancelCauseFunc) {
	defer r.join(ctx)
	for {
		if r.cluster.Node().Replaced {
			r.state.err = ErrNodeReplaced
			r.Log.Warn("node replaced, drain ended")
			cancel(ErrNodeReplaced)
			return
		}
		began := time.Now()
		wake, done := r.reconcile(ctx)
		rested := time.Now().Add(min(restFactor*time.Since(began), longestRest))
		if done || !r.await(ctx, wake) || !r.gather(ctx, Earliest(rested, wake)) {
			return
		}
	}
}

// gather takes what else comes before that time, so that one look is for all of it. It reports false when ctx ends.
func (r *run) gather(ctx context.Context, until time.Time) bool {
	for time.Now().Before(until) {
		if !r.await(ctx, until) {
			return false
		}
	}
	return true
}

// await returns when something has changed or it is time to wake, and false when ctx ends.
func (r *run) await(ctx context.Context, wake time.Time) bool {
	timer := time.NewTimer(time.Until(wake))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.cluster.Changed():
		r.changes++
	case got := <-r.responses:
		r.handle(got)
	case got := <-r.recordons:
		r.handleRecordon(got)
	case <-timer.C:
	}
	return true
}

// join waits for the requests in flight. At the deadline they are the last ones, and a pod whose eviction fails then is deleted.
func (r *run) join(ctx context.Context) {
	for _, p := range r.state.pods {
		r.deleteUnsignaled(ctx, p)
	}
	for !r.isIdle() {
		var got response
		select {
		case again := <-r.recordons:
			r.handleRecordon(again)
			continue
		case got = <-r.responses:
		}
		r.handle(got)
		r.deleteUnsignaled(ctx, r.state.pods[got.pod])
	}
}

// deleteUnsignaled deletes a due pod that no request has told to stop, at the deadline.
func (r *run) deleteUnsignaled(ctx context.Context, p *progress) {
	now := time.Now()
	if r.state.err == nil && r.Limits.Force && r.Limits.isOver(now) && p.isUnsignaled() && r.requests.Err() == nil && !r.keeps(p) {
		p.lastTries++
		r.start(ctx, doDelete, p.planned, r.conditions(p.planned, now))
	}
}

// keeps reports whether only the pod's escort, or its keeper, may tell it to stop.
func (r *run) keeps(p *progress) bool { return r.Phases[p.planned.Phase].Keeps }

// reconcile looks at the node once, and starts what there is to do.
func (r *run) reconcile(ctx context.Context) (wake time.Time, done bool) {
	now := time.Now()
	wake = Earliest(r.checkCordon(ctx, now), Earliest(r.checkKubelet(now), now.Add(blockedRecheck)))
	pods := r.cluster.Pods()
	plan := Make(View{
		Now: now, Node: r.node, Pods: pods, Phases: r.Phases, Clocks: r.state.clocks, Limits: r.Limits, RecordedPhases: r.recordedPhases(pods),
		Ask: r.ask(), exceptions: r.exceptions(pods), held: r.held(pods),
	})
	r.logPhases(plan)
	r.state.clocks = plan.Clocks
	for _, ref := range r.state.observe(plan, r.Phases, now) {
		r.Log.Info("pod gone", "pod", ref.String())
	}
	if r.state.began.IsZero() {
		r.state.began = now
		if r.node.Cordoned.IsZero() {
			r.noteClosed()
		}
	}
	r.chooseFinal(plan)
	wake = Earliest(wake, Earliest(plan.Wake, r.tellOwners(plan.Pods, now)))
	for _, pod := range r.inTurn(plan.Pods) {
		c := r.conditions(pod, now)
		do, again := next(*r.state.pods[pod.Ref], pod, c)
		r.start(ctx, do, pod, c)
		wake = Earliest(wake, again)
	}
	return wake, plan.Done() && r.isIdle() && !r.needsFinalSignal() && !r.awaitsFinalEffect(plan.Pods, now)
}

// held returns the pods that their escorts hold, by UID.
func (r *run) held(pods []Pod) map[string]bool {
	found := map[string]bool{}
	for _, p := range pods {
		if known := r.state.pods[p.Ref]; known != nil && known.holding {
			found[p.UID] = true
		}
	}
	return found
}

// isIdle reports whether no request is in flight.
func (r *run) isIdle() bool { return r.inFlight == 0 && !r.recordoning }

func (r *run) ask() Ask { return Ask{Takes: r.state.times.takes(), AtOnce: r.Concurrency} }

// inTurn returns the pods that may be acted on now, in the order in which they get a request: due pods first, by their time; then the
// others, those last that were blocked or whose requests fail, each in its turn. So a slow webhook of some pods does not hold back the
// rest. Neither do blocked pods: they get another try at each change, and other drains change their PDB all the time.
func (r *run) inTurn(pods []Planned) []Planned {
	open := make([]Planned, 0, len(pods))
	var again []Planned
	anyDue := false
	for _, pod := range pods {
		p := r.state.pods[pod.Ref]
		p.setDue(pod.Due)
		anyDue = anyDue || pod.Due
		switch {
		case !pod.Open && !p.needsFinalSignal():
		case !pod.Due && (p.failures > 0 || p.latest.mayChange()):
			again = append(again, pod)
		default:
			open = append(open, pod)
		}
	}
	slices.SortStableFunc(again, func(a, b Planned) int { return r.state.pods[a.Ref].sentAt.Compare(r.state.pods[b.Ref].sentAt) })
	open = append(open, again...)
	if anyDue {
		slices.SortStableFunc(open, func(a, b Planned) int {
			switch {
			case a.Due && b.Due:
				return a.ForceAt.Compare(b.ForceAt)
			case a.Due:
				return -1
			case b.Due:
				return 1
			}
			return 0
		})
	}
	return open
}

func (r *run) conditions(pod Planned, now time.Time) conditions {
	phase := r.Phases[pod.Phase]
	if r.state.pods[pod.Ref].panicked != "" {
		phase = phase.withoutEscort()
	}
	return conditions{
		now: now, limits: r.Limits, phase: phase, recorded: phase.Escort != nil && r.isRecorded(pod.Ref),
		changes: r.changes, evicting: r.evicting, pace: r.pace, takes: r.state.times.takes(),
	}
}

// start sends the request that next has decided on.
func (r *run) start(ctx context.Context, do action, pod Planned, c conditions) {
	if do == doNothing {
		return
	}
	p := r.state.pods[pod.Ref]
	p.evictBy, p.planned = c.evictBy(*p, pod), pod
	p.requests.start(do, pod, c)
	if pod.cameBack {
		p.finalRequests++
	}
	r.inFlight++
	var request func()
	switch do {
	case doEscort:
		r.Log.Info("escort started", "pod", pod.String())
		requests := p.requests
		request = func() { r.escort(ctx, c.phase.Escort, pod, requests) }
	case doEvict:
		request = func() { r.evict(pod) }
	default:
		expected := r.state.times.deletion()
		request = func() { r.delete(pod, expected) }
	}
	if do != doEscort {
		r.evicting++
	}
	keep := r.noteSuccessor(pod.Pod)
	go func() {
		if keep != nil {
			keep()
		}
		request()
	}()
}

func (r *run) logPhases(next Plan) {
	for i, phase := range r.Phases {
		before, after := r.state.clocks[i], next.Clocks[i]
		if before.Began.IsZero() && !after.Began.IsZero() {
			r.Log.Info("phase started", "phase", phase.Name)
		}
		if before.Emptied.IsZero() && !after.Emptied.IsZero() {
			r.Log.Info("phase complete", "phase", phase.Name)
		}
	}
}
