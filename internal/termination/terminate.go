package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// handOffReserve is kept free at the end of an invocation for what must still be said when a slice ends. AWS's own calls
// answer in well under a second; the rest is for the one that does not.
const handOffReserve = 5 * time.Second

// Ends of a drain's context, told apart by cause.
var (
	errInvocationEnding = errors.New("the invocation's time is over; a later one goes on")
	errDeadlineReached  = errors.New("the deadline came")
)

// job is one termination being done in one slice.
type job struct {
	*Handler
	Termination
	seen    time.Time // when its event first was; zero: nobody knows
	first   bool      // this is the first slice of its event
	drainer drain.Drainer
	maxWait time.Duration  // of phases and escorts; zero: each its own
	due     time.Time      // the deadline as it was before a last look moved it; zero: nobody knows yet
	ends    time.Time      // the slice; zero: never
	sooner  chan time.Time // a deadline that a notice sets, which another invocation was given
	log     *slog.Logger
	report  Report

	heartbeats     heartbeatStats
	hookExpired   bool                                   // the action was over too early
	resumed   bool                                   // an earlier slice closed the node
	record      func(context.Context, NodeEvent) error // on the node; nil: it was not found, or not closed
	recording sync.WaitGroup                         // of telling that the drain began
}

func (h *Handler) newJob(t Termination) *job {
	return &job{
		Handler: h, Termination: t, first: true, drainer: h.Drainer, log: h.Log.With("instance", t.InstanceID, "group", t.Group),
		sooner: make(chan time.Time, 1),
		report: Report{InstanceID: t.InstanceID, Group: t.Group, Hook: t.Hook, Trigger: t.Trigger, StartedAt: time.Now()},
	}
}

// terminate takes one termination from its event to its completed lifecycle action, or to the end of the slice.
func (h *Handler) terminate(ctx context.Context, record Record) (Report, error) {
	w := h.newJob(*record.Termination)
	w.seen, w.first = record.FirstReceived, record.isFirst()
	if reason := h.Policy.notOurs(w.Termination); reason != "" {
		w.end(StatusSkipped, reason)
		return w.report, nil
	}
	do := w.run
	if w.Trigger != "" {
		do = w.runInterruption
	}
	err := do(ctx)
	w.report.FinishedAt = time.Now()
	w.publish(ctx, err)
	return w.report, err
}

// notOurs is why a termination is not ours, as far as the event itself tells.
func (p Policy) notOurs(t Termination) string {
	switch {
	case t.Trigger == RebalanceRecommendation && !p.OnRebalanceRecommendation:
		return string(t.Trigger) + ": drain.onRebalanceRecommendation is off"
	case t.Trigger != "": // it names no group
		return ""
	case !p.OwnsGroup(t.Group):
		return fmt.Sprintf("group %s is not one of ours", t.Group)
	case t.Hook != p.Hook:
		return fmt.Sprintf("hook %s is not ours", t.Hook)
	}
	return ""
}

// run is the promised order: verify, own, cordon, evict, volumes, complete.
func (w *job) run(ctx context.Context) error {
	slice, cancel := boundInvocation(ctx)
	defer cancel()
	instances, rejection, err := w.verify(slice)
	if err != nil {
		return w.failed(err)
	}
	if rejection != "" {
		w.end(StatusRejected, rejection)
		return w.restore(slice, instances)
	}
	if w.Policy.Shadow {
		return w.shadow(ctx, slice, instances)
	}
	kubernetes, err := w.Connect(slice)
	if err != nil {
		return w.withoutCluster(ctx, slice, err)
	}
	return w.own(ctx, slice, kubernetes, instances)
}

// withoutCluster is for a cluster that is out of reach, or refuses us: until the deadline the instance is kept for another try, and
// then it is the operator's to say what it is worth. Tries of an event that nobody knows the first sight of must not move
// its deadline.
func (w *job) withoutCluster(ctx, slice context.Context, cause error) error {
	w.seen = cmp.Or(w.seen, w.Began)
	if _, err := w.loadHook(slice); err != nil {
		return w.failed(fmt.Errorf("%w; %w", cause, err))
	}
	if time.Now().Before(w.report.Deadline) {
		w.heartbeater().sendLast(slice)
		return w.failed(cause)
	}
	w.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, cause))
	return w.complete(ctx, w.Policy.OnFailure)
}

// boundInvocation bounds ctx so that the function ends in order before Lambda ends it.
func boundInvocation(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-handOffReserve), errInvocationEnding)
}

// own does the rest as the only one who does it.
func (w *job) own(ctx, slice context.Context, k Kubernetes, all []Instance) error {
	lease, err := k.AcquireLease(slice, w.InstanceID, w.hasten)
	if err != nil {
		return w.withoutCluster(ctx, slice, err)
	}
	if lease == nil {
		w.skipHeld()
		return nil
	}
	w.drainer.Records = lease
	defer w.releaseLease(lease)
	result, err := w.drainInTime(slice, k, all)
	if err != nil {
		return err
	}
	return w.complete(ctx, result)
}

// skipHeld: the instance is another invocation's. The record comes again, in case that one does not finish.
func (w *job) skipHeld() {
	w.report.held = true
	w.end(StatusSkipped, "another invocation is draining the instance")
}

// releaseLease releases the Lease. One that stays keeps the next owner out until it expires, and nothing worse.
func (w *job) releaseLease(lease Lease) {
	keep := KeepRecords
	switch {
	case w.report.LifecycleResult != "":
		keep = KeepNothing
	case w.report.Status == StatusIncomplete, w.report.Status == StatusFailed:
		keep = KeepAll
	}
	if err := lease.Release(keep); err != nil {
		w.log.Warn("failed to release lease", "error", err.Error())
	}
}

// drainInTime drains under the hook's clock, with the hook kept alive.
func (w *job) drainInTime(slice context.Context, k Kubernetes, all []Instance) (Result, error) {
	hook, err := w.loadHook(slice)
	if err != nil {
		return "", w.failed(err)
	}
	w.overtime(slice, hook)
	defer w.heartbeater().start(slice, hook)()
	return w.emptyInTime(slice, k, all)
}

// emptyInTime empties the node by the report's deadline.
func (w *job) emptyInTime(slice context.Context, k Kubernetes, all []Instance) (Result, error) {
	w.ends, _ = slice.Deadline()
	ctx, cancel := context.WithDeadlineCause(slice, w.report.Deadline, errDeadlineReached)
	defer cancel()
	return w.drainNode(ctx, k, all)
}

// end sets what the report gives as the result.
func (w *job) end(status Status, reason string) {
	w.report.Status, w.report.Reason = status, reason
}

// failed is the end of a step that went wrong for another reason than that time ran out.
func (w *job) failed(err error) error {
	w.end(StatusFailed, err.Error())
	return &Failed{err}
}
