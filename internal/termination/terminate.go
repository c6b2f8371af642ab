package termination

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// handOffReserve is kept free at the end of an invocation for the last heartbeat, the Lease and the message. AWS usually answers in
// well under a second; the rest is for a call that does not.
const handOffReserve = 5 * time.Second

// Causes of the end of a drain's context.
var (
	errInvocationEnding = errors.New("invocation timeout near, next invocation continues")
	errDeadlineReached  = errors.New("deadline reached")
)

// job is one termination in one invocation.
type job struct {
	*Handler
	Termination
	seen    time.Time // when its event was received first; zero: unknown
	first   bool      // no invocation was given its event before
	clock   clock
	drainer drain.Drainer
	state   drain.State // of the eviction, which may resume under a shorter deadline
	log     *slog.Logger
	report  Report

	heartbeats  heartbeatStats
	hookExpired bool                                   // the action was over too early
	resumed     bool                                   // an earlier invocation cordoned the node
	sendEvent   func(context.Context, NodeEvent) error // on the node; nil: it was not found, or not cordoned
	sending     sync.WaitGroup                         // of the event that the drain began
}

func (h *Handler) newJob(t Termination) *job {
	return &job{
		Handler: h, Termination: t, first: true, clock: clock{bounds: h.Policy.Bounds}, drainer: h.Drainer,
		log:    h.Log.With("instance", t.InstanceID, "group", t.Group),
		report: Report{InstanceID: t.InstanceID, Group: t.Group, Hook: t.Hook, Trigger: t.Trigger, StartedAt: time.Now()},
	}
}

// terminate takes one termination from its event to its completed lifecycle action, or to the end of the invocation.
func (h *Handler) terminate(ctx context.Context, record Record) (Report, error) {
	j := h.newJob(*record.Termination)
	j.seen, j.first = record.FirstReceived, record.isFirst()
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

// run is the promised order: verify, acquire the lease, learn the clock, then drainNode (cordon, evict, volumes), complete.
func (j *job) run(ctx context.Context) error {
	invocation, cancel := boundInvocation(ctx)
	defer cancel()
	instances, rejection, err := j.verify(invocation)
	switch {
	case err != nil:
		return j.failed(err)
	case rejection != "":
		j.end(StatusRejected, rejection)
		return j.restore(invocation, instances)
	case j.Policy.Shadow:
		j.planDryRun(invocation, instances)
		return j.complete(ctx, Continue)
	}
	cluster, lease, err := j.acquireLease(invocation)
	switch {
	case err != nil:
		return j.withoutCluster(ctx, invocation, err)
	case lease == nil:
		j.skipHeld()
		return nil
	}
	defer j.releaseLease(lease)
	hook, err := j.loadHook(invocation)
	if err != nil {
		return j.failed(err)
	}
	j.clock.setForHook(j.Began, j.seen, hook)
	j.clock.extendPastDeadline(invocation, j.Began, hook)
	stopHeartbeats := j.heartbeater().start(invocation, hook)
	result, err := j.drainNode(invocation, cluster, instances)
	stopHeartbeats()
	if err != nil {
		return err
	}
	return j.complete(ctx, result)
}

// drainNode is the middle of the promised order: cordon the instance's node, evict its pods, wait for their volumes. It returns what
// the lifecycle action is to be completed with.
func (j *job) drainNode(invocation context.Context, cluster Kubernetes, instances []Instance) (Result, error) {
	ctx, cancel := j.clock.withDeadline(invocation)
	defer cancel()
	known := j.describeInstances(ctx, instances)
	node, err := j.awaitNode(ctx, cluster, instanceOf(instances, j.InstanceID), known[j.InstanceID])
	switch {
	case err != nil:
		return j.outOfTime(ctx, err)
	case node == nil:
		j.end(StatusDrained, "the instance has no node in the cluster")
		return Continue, nil
	}
	if err := j.cordon(ctx, cluster, node); err != nil {
		return j.outOfTime(ctx, err)
	}
	j.announceStart(ctx, cluster, *node)
	j.taintTerminatingPeers(ctx, cluster, instances, known)
	pods, err := cluster.WatchPods(ctx, *node)
	if err != nil {
		return j.outOfTime(ctx, err)
	}
	cause := j.evict(ctx, pods, *node)
	remaining := len(j.report.Remaining()) > 0
	if remaining && !errors.Is(cause, errDeadlineReached) {
		j.end(StatusIncomplete, cause.Error())
		return "", &Incomplete{j.report}
	}
	j.shutDownDaemons(invocation, pods, *node)
	if remaining {
		j.report.CloseRemaining(j.state, cause.Error())
		j.end(j.report.status(), cause.Error())
		return Continue, nil
	}
	j.awaitVolumes(ctx, cluster, *node)
	j.end(j.report.status(), "")
	return Continue, nil
}

// boundInvocation returns a context that ends handOffReserve before Lambda ends the invocation.
func boundInvocation(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-handOffReserve), errInvocationEnding)
}

// end sets the result in the report.
func (j *job) end(status Status, reason string) {
	j.report.Status, j.report.Reason = status, reason
}

// failed ends a step that went wrong, unless time ran out.
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
