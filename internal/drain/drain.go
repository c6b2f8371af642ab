package drain

import (
	"context"
	"errors"
	"log/slog"
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
)

// Drainer drains nodes.
type Drainer struct {
	Phases      []Phase
	Limits      Limits  // of the next drain
	Records     Records // of that drain; nil: none can be kept, and an escort that needs one only evicts
	Concurrency int     // evictions in flight at once, per node
	Log         *slog.Logger
}

// Drain evicts the node's pods, phase by phase, until no pod remains that must go, or until ctx ends. The report's Remaining says which.
func (d Drainer) Drain(ctx context.Context, cluster Cluster, node Node) (Report, State) {
	return d.Resume(ctx, cluster, node, State{})
}

// Resume continues a drain of the node that has ended: with the times of its phases and its report, and perhaps with other limits.
func (d Drainer) Resume(ctx context.Context, cluster Cluster, node Node, before State) (Report, State) {
	r := &run{
		Drainer: d, cluster: cluster, node: node, state: before.resume(d.Phases), responses: make(chan response),
		pace: pace{limit: d.Concurrency, now: d.Concurrency},
	}
	r.loop(ctx)
	return r.state.report(d.Phases), r.state
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
	pace             pace
}

// loop returns when nothing is left to do, or when ctx ends.
func (r *run) loop(ctx context.Context) {
	defer r.join()
	for {
		wake, done := r.reconcile(ctx)
		if done || !r.await(ctx, wake) {
			return
		}
	}
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
	case <-timer.C:
	}
	return true
}

// join waits for the requests in flight. Their context has ended, so it is not long.
func (r *run) join() {
	for r.inFlight > 0 {
		r.handle(<-r.responses)
	}
}

// reconcile looks at the node once, and starts what there is to do.
func (r *run) reconcile(ctx context.Context) (wake time.Time, done bool) {
	now := time.Now()
	wake = earliest(r.checkKubelet(now), now.Add(blockedRecheck))
	pods := r.cluster.Pods()
	plan := Make(View{
		Now: now, Node: r.node, Pods: pods, Phases: r.Phases, Clocks: r.state.clocks, Limits: r.Limits, RecordedPhases: r.recordedPhases(pods),
	})
	r.logPhases(plan)
	r.state.clocks = plan.Clocks
	for _, ref := range r.state.observe(plan, r.Phases, now) {
		r.Log.Info("pod gone", "pod", ref.String())
	}
	wake = earliest(wake, plan.Wake)
	for _, pod := range plan.Pods {
		p := r.state.pods[pod.Ref]
		p.setDue(pod.Due)
		if !pod.Open {
			continue
		}
		c := r.conditions(pod, now)
		do, again := next(*p, pod, c)
		r.start(ctx, do, pod, c)
		wake = earliest(wake, again)
	}
	return wake, plan.Done() && r.inFlight == 0
}

func (r *run) conditions(pod Planned, now time.Time) conditions {
	phase := r.Phases[pod.Phase]
	return conditions{
		now: now, limits: r.Limits, phase: phase, recorded: phase.Escort != nil && r.isRecorded(pod.Ref),
		changes: r.changes, evicting: r.evicting, pace: r.pace,
	}
}

// start sends the request that next has decided on.
func (r *run) start(ctx context.Context, do action, pod Planned, c conditions) {
	if do == doNothing {
		return
	}
	p := r.state.pods[pod.Ref]
	p.evictBy = c.evictBy(*p, pod)
	p.requests.start(do, pod, c)
	r.inFlight++
	if do == doEscort {
		r.Log.Info("escort started", "pod", pod.String())
		go r.escort(ctx, c.phase.Escort, pod, p.requests)
		return
	}
	r.evicting++
	if do == doDelete {
		go r.delete(ctx, pod, c.now)
		return
	}
	go r.evict(ctx, pod, c.now)
}

// handle notes a response, and when the pod's next request may be sent.
func (r *run) handle(got response) {
	p, now := r.state.pods[got.pod], time.Now()
	r.finish(p, got)
	if got.err == nil {
		r.handleAccepted(p, got, now)
		return
	}
	if block, is := errors.AsType[*Blocked](got.err); is {
		p.setAnswer(blocked)
		p.failures, p.retryAt = 0, now.Add(blockedRecheck)
		p.noteBlocked(block, now)
		r.logOnce(p, "eviction blocked", got)
	} else {
		p.setAnswer(failed)
		p.retryAt = now.Add(r.retryDelay(p, max(backoff(got.pod, p.failures), got.retryAfter()), now))
		p.failures++
		r.pace.throttled(got.err, p.sentAt, p.retryAt)
		p.noteFailure(got, now)
		r.logOnce(p, got.failureMessage(), got)
	}
	switch {
	case got.escort != nil: // without time for another escort, there is nothing to wait for
		p.retryAt = earliest(p.retryAt, p.evictBy)
	case p.attempt != untried && got.deletedWith == 0: // the deletion follows at once
		p.attempt, p.retryAt, p.failures = refused, p.notBefore, 0
	}
}

func (r *run) handleAccepted(p *progress, got response, now time.Time) {
	p.latest, p.failures, p.retryAt = accepted, 0, now.Add(acceptedRecheck)
	r.pace.accept()
	switch {
	case got.escort != nil: // the eviction was noted when it was accepted
	case got.deletedWith > 0:
		if p.noteDeleted(got, now) {
			r.Log.Warn("pod forced", "pod", got.pod.String(), "grace", got.deletedWith.String(), "reason", p.reason())
		}
	case p.noteEvicted(now):
		r.Log.Info("pod evicted", "pod", got.pod.String())
	}
}

// finish notes that a request is no longer in flight, if the response is its last.
func (r *run) finish(p *progress, got response) {
	if got.inFlight {
		return
	}
	p.inFlight = false
	r.inFlight--
	if got.escort == nil {
		r.evicting--
		p.notBefore = time.Time{}
		return
	}
	p.notBefore = earliest(time.Now().Add(escortInterval), p.evictBy)
	p.line.Escort = got.escort
	r.Log.Info("escort finished", "pod", got.pod.String(), "escort", got.escort)
}

// logOnce logs a problem, and not again until it changes.
func (r *run) logOnce(p *progress, message string, got response) {
	if problem := got.err.Error(); problem != p.logged {
		p.logged = problem
		r.Log.Warn(message, "pod", got.pod.String(), "reason", problem)
	}
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
