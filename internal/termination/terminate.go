package termination

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// handOffReserve is kept free at the end of an invocation for the last heartbeat, the Lease and the message. AWS usually answers in
// well under a second; the rest is for a call that does not.
const handOffReserve = 5 * time.Second

// maxRounds is how often a drain goes on because something changed while volumes were awaited. One round is enough for a controller that
// makes its next pod late. Without a limit, pods that are bound to the node one after the other would keep it until the deadline.
const maxRounds = 3

// Causes of the end of a drain's context.
var (
	errInvocationEnding = errors.New("invocation timeout near, next invocation continues")
	errDeadlineReached  = errors.New("deadline reached")
)

// job is one termination in one invocation.
type job struct {
	*Handler
	Termination
	owned    bool      // its group is ours
	group    *Group    // as described before the drain, for its tags; nil: it was not
	received time.Time // when its event was received first; zero: unknown
	first    bool      // no invocation was given its event before
	clock    clock
	drainer  drain.Drainer
	lease    Lease                   // nil: there is none
	noLease  error                   // why there is none
	unsaved  unsavedNodes            // what was changed on nodes meanwhile
	unlease  context.CancelFunc      // ends the renewal of the Lease; nil: there is none
	abandon  context.CancelCauseFunc // ends the invocation's work on the drain
	asked    questions
	drains   []*nodeDrain // the nodes of the instance; the first decides the result
	log      *slog.Logger
	report   Report
	notes    []string // what the report's reason says beside the result: what the drain goes on without

	heartbeats   heartbeatStats
	hookExpired  bool                                   // the action was over too early
	wasInService bool                                   // the instance has no node, though it had been in service
	hook         Hook                                   // that the instance waits on; zero: none
	volumesStay  bool                                   // volumes were still attached when the wait for them ended
	keptOpen     bool                                   // the action is kept open to the hook's limit
	resumed      bool                                   // an earlier invocation cordoned the node
	sendEvent    func(context.Context, NodeEvent) error // on the node; nil: it was not found, or not cordoned
	sending      sync.WaitGroup                         // of the event that the drain began, and of those about pods
}

func (h *Handler) newJob(t Termination) *job {
	return &job{
		Handler: h, Termination: t, first: true, clock: clock{bounds: h.Policy.Bounds}, drainer: h.Drainer,
		log: h.Log.With("instance", t.InstanceID, "group", t.Group),
		report: Report{
			InstanceID: t.InstanceID, Group: t.Group, Hook: t.Hook, Trigger: t.Trigger, StartedAt: time.Now(),
			Version: h.Version, Commit: h.Commit,
		},
	}
}

// terminate takes one termination from its event to its completed lifecycle action, or to the end of the invocation.
func (h *Handler) terminate(ctx context.Context, record Record) (Report, error) {
	j := h.newJob(*record.Termination)
	j.received, j.first = record.FirstReceived, record.isFirst()
	if reason := h.Policy.notOurs(j.Termination); reason != "" {
		j.end(StatusSkipped, reason)
		return j.report, nil
	}
	var err error
	if j.Trigger != "" {
		err = j.runInterruption(ctx)
	} else {
		err = j.run(ctx)
	}
	j.finish()
	j.publish(ctx, err)
	return j.report, err
}

// run is the promised order: verify, acquire the lease, learn the clock, then drainNode (cordon, evict, volumes), complete. What only reads
// is asked as early as it can be, and awaited where the order needs it. After a panic the Lease is not released, so that the next
// invocation does less.
func (j *job) run(ctx context.Context) error {
	invocation, cancel := j.boundInvocation(ctx)
	defer cancel()
	switch owned, err := j.isOurs(invocation); {
	case err != nil:
		return j.failed(err)
	case !owned:
		j.end(StatusSkipped, notOurGroup(j.Group))
		return nil
	}
	connected := j.askCluster(invocation)
	j.askInstance(invocation)
	instance, rejection, err := j.verify(invocation)
	j.forgetOld()
	switch {
	case err != nil:
		return j.failed(err)
	case rejection != "":
		j.end(StatusRejected, rejection)
		return j.restore(invocation, instance)
	case j.Policy.Shadow:
		j.planDryRun(invocation)
		return j.complete(ctx, Continue)
	}
	j.askBeforeLease(invocation)
	to := connected()
	if to.err != nil {
		return j.withoutCluster(ctx, invocation, to.err)
	}
	j.askNodes(invocation, to.cluster)
	if held := j.acquireLease(invocation, to.cluster); held {
		j.skipHeld()
		return nil
	}
	err = j.drainForHook(ctx, invocation, to.cluster, instance)
	j.releaseLease()
	return err
}

// drainForHook drains the node while the hook is kept alive, and completes the lifecycle action.
func (j *job) drainForHook(ctx, invocation context.Context, cluster Kubernetes, instance Instance) error {
	j.askClock(invocation)
	hook := j.asked.hook()
	stopHeartbeats := j.heartbeater().start(invocation, hook)
	j.learnClock(j.asked.activities, hook)
	j.clock.extendPastDeadline(invocation)
	j.resumeKeptOpen(hook)
	result, err := Result(leftOpen), j.waitForLease(hook)
	if err == nil {
		j.continueWithoutLease(invocation, cluster)
		result, err = j.drainNode(invocation, cluster, instance)
		j.saveUnsaved(invocation, cluster)
	}
	stopHeartbeats()
	if err != nil {
		// Heartbeats end with one if the invocation's end ends them. The drain may have failed before the first was answered, too.
		if !j.heartbeats.accepted.Load() || invocation.Err() == nil && isHandedOff(err) {
			j.heartbeater().sendLast(ctx)
		}
		return err
	}
	if result == leftOpen {
		return nil
	}
	return j.complete(ctx, result)
}

// drainNode is the middle of the promised order: cordon the instance's node, evict its pods, wait for their volumes. It returns what
// the lifecycle action is to be completed with.
func (j *job) drainNode(invocation context.Context, cluster Kubernetes, instance Instance) (Result, error) {
	ctx, cancel := j.clock.withLook(invocation)
	defer cancel()
	found, err := j.awaitNodes(ctx, cluster)
	switch {
	case err != nil:
		return j.outOfTime(ctx, err)
	case len(found) == 0:
		return j.withoutNode(instance, j.asked.instance().EC2Instance), nil
	}
	watching, stop := context.WithCancel(invocation)
	defer stop()
	j.drainer.Owners = j.newOwners(watching, cluster)
	main := j.newNodeDrain(cluster, found[0])
	if err := main.close(ctx); err != nil {
		return j.outOfTime(ctx, err) // another try finds the node that is there now
	}
	j.announceStart(ctx, cluster, main.node)
	j.taintTerminatingPeers(ctx, cluster)
	if err := main.watch(ctx, watching); err != nil {
		return j.outOfTime(ctx, err)
	}
	j.drains = append(j.drains, main)
	if err := j.addClaimants(ctx, watching, cluster, found[1:]); err != nil {
		return j.outOfTime(ctx, err)
	}
	return j.empty(invocation)
}

// empty evicts the pods of all the nodes, and waits for volumes. It goes on if pods come meanwhile: a controller that tolerates everything
// makes its next pod only when the last one is gone. It goes on if a person opens the node, too, or its kubelet is back.
func (j *job) empty(invocation context.Context) (Result, error) {
	j.clock.extendPastDeadline(invocation) // finding the nodes took time
	cause := j.evictAndReport(invocation)
	j.noteOnlyCopies()
	for _, d := range j.drains {
		if d.denied != nil {
			j.notes = append(j.notes, "cordon: "+d.denied.Error())
		}
	}
	for round := 0; cause == nil && j.awaitVolumes(invocation) && round < maxRounds; round++ {
		cause = j.evictAndReport(invocation)
	}
	if cause == nil { // the invocation may have ended, or lost its Lease, while volumes were awaited
		cause = context.Cause(invocation)
	}
	if cause == nil && j.isTooLateForDaemons(invocation) {
		cause = errInvocationEnding
	}
	if j.isInterrupted(cause) {
		j.savePhases(invocation)
		j.end(StatusIncomplete, cause.Error())
		return "", &Incomplete{j.report}
	}
	j.shutDownDaemons(invocation)
	if cause != nil {
		return j.endWithPods(cause), nil
	}
	j.gatherReports()
	j.end(j.report.status(), "")
	return Continue, nil
}

// savePhasesTimeout bounds the record of when the phases began. What it takes of handOffReserve is not there for the message. Without the
// record, the timeouts of the phases begin again.
const savePhasesTimeout = time.Second

// savePhases records when the phases of the nodes began, for the next invocation. One that has taken the drain over has begun already.
func (j *job) savePhases(invocation context.Context) {
	if j.lease == nil || errors.Is(context.Cause(invocation), drain.ErrTakenOver) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(invocation), savePhasesTimeout)
	defer cancel()
	for _, d := range j.drains {
		if err := d.drainer.SaveClocks(ctx, d.node, d.state); err != nil {
			d.log.Warn("failed to record the times of phases", "error", err.Error())
		}
	}
}

// evictAndReport evicts the pods of all the nodes, and returns why it ended with pods that remain, or on a node that was replaced; nil: all
// are empty. At the deadline it goes on if the node may have the only copy of data.
func (j *job) evictAndReport(invocation context.Context) (cause error) {
	cause = j.evict(invocation)
	j.gatherReports()
	if errors.Is(cause, errDeadlineReached) && j.keepOpen(invocation) {
		cause = j.evict(invocation)
		j.gatherReports()
	}
	switch {
	case cause == nil && slices.ContainsFunc(j.drains, (*nodeDrain).isReplaced):
		return drain.ErrNodeReplaced
	case errors.Is(cause, errDeadlineReached) && len(j.report.Remaining()) == 0:
		return nil
	}
	return cause
}

// isInterrupted reports whether another invocation is to continue, whatever remains: a pod that came back and was not told to stop yet
// counts as one that stays.
func (j *job) isInterrupted(cause error) bool {
	return cause != nil && !errors.Is(cause, errDeadlineReached) && !(errors.Is(cause, drain.ErrNodeReplaced) && j.clock.isLongOver())
}

// endWithPods ends the drain of a node on which pods remain.
func (j *job) endWithPods(cause error) Result {
	for _, d := range j.drains {
		d.report.CloseRemaining(d.state, cause.Error())
	}
	j.gatherReports()
	j.end(j.report.status(), cause.Error())
	if j.keptOpen {
		return leftOpen
	}
	return Continue
}

// boundInvocation returns a context that ends handOffReserve before Lambda ends the invocation.
func boundInvocation(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-handOffReserve), errInvocationEnding)
}

// boundInvocation is the function of that name, for a context that ends too when another invocation takes the drain over.
func (j *job) boundInvocation(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := boundInvocation(ctx)
	ctx, j.abandon = context.WithCancelCause(ctx)
	return ctx, cancel
}

// end sets the result in the report. What the drain went on without is part of the reason.
func (j *job) end(status Status, reason string) {
	j.report.Status, j.report.Reason = status, drain.Short(drain.Sentence(append(slices.Clone(j.notes), reason)...))
}

// continueWithout logs what a drain goes on without, and notes it for the report's reason.
func (j *job) continueWithout(without string, err error) {
	j.log.Warn("drain continues without an optional step", "step", without, "error", err.Error())
	j.notes = append(j.notes, without+": "+err.Error())
}

// failed ends the job with status failed and this error, and returns the error as *Failed.
func (j *job) failed(err error) error {
	j.end(StatusFailed, err.Error())
	return &Failed{err}
}

// finish completes the report with what the clock decided.
func (j *job) finish() {
	j.report.FinishedAt = time.Now()
	j.report.Deadline = j.clock.deadline()
	if j.clock.wasShortened() {
		j.report.Trigger = SpotInterruption
	}
}
