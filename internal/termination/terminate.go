package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// handOverReserve is kept free at the end of an invocation for what must still be said when a slice ends. AWS's own calls
// answer in well under a second; the rest is for the one that does not.
const handOverReserve = 5 * time.Second

// Ends of a drain's context, told apart by cause.
var (
	errSliceOver = errors.New("the invocation's time is over; a later one goes on")
	errDeadline  = errors.New("the deadline came")
)

// work is one termination being done in one slice.
type work struct {
	*Handler
	Termination
	log    *slog.Logger
	report Report
}

func (h *Handler) work(t Termination) *work {
	return &work{
		Handler: h, Termination: t, log: h.Log.With("instance", t.InstanceID, "group", t.Group),
		report: Report{InstanceID: t.InstanceID, Group: t.Group, Hook: t.Hook, StartedAt: time.Now()},
	}
}

// terminate takes one termination from its event to its completed lifecycle action, or to the end of the slice.
func (h *Handler) terminate(ctx context.Context, t Termination) (Report, error) {
	w := h.work(t)
	if reason := w.notOurs(); reason != "" {
		w.end(StatusSkipped, reason)
		return w.report, nil
	}
	err := w.run(ctx)
	w.report.FinishedAt = time.Now()
	return w.report, err
}

func (w *work) notOurs() string {
	switch {
	case !w.Policy.OwnsGroup(w.Group):
		return fmt.Sprintf("group %s is not one of ours", w.Group)
	case w.Hook != w.Policy.Hook:
		return fmt.Sprintf("hook %s is not ours", w.Hook)
	}
	return ""
}

// run is the promised order: verify, own, cordon, evict, volumes, complete.
func (w *work) run(ctx context.Context) error {
	slice, cancel := sliceOf(ctx)
	defer cancel()
	instances, rejection, err := w.verify(slice)
	if err != nil {
		return w.failed(err)
	}
	if rejection != "" {
		w.end(StatusRejected, rejection)
		return w.restore(slice, instances)
	}
	kubernetes, err := w.Connect(slice)
	if err != nil {
		return w.failed(err)
	}
	if w.Policy.Shadow {
		return w.shadow(ctx, slice, kubernetes, instances)
	}
	return w.own(ctx, slice, kubernetes, instances)
}

// sliceOf bounds ctx so that the function ends in order before Lambda ends it.
func sliceOf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-handOverReserve), errSliceOver)
}

// own does the rest as the only one who does it.
func (w *work) own(ctx, slice context.Context, k Kubernetes, all []Instance) error {
	release, owned, err := k.Own(slice, w.InstanceID)
	if err != nil {
		return w.failed(err)
	}
	if !owned {
		w.report.owned = true
		w.end(StatusSkipped, "another invocation is draining the instance")
		return nil
	}
	defer w.giveBack(release)
	result, err := w.drainInTime(slice, k, all)
	if err != nil {
		return err
	}
	return w.complete(ctx, result)
}

// giveBack releases the Lease. One that stays keeps the next owner out until it expires, and nothing worse.
func (w *work) giveBack(release func() error) {
	if err := release(); err != nil {
		w.log.Warn("the lease was not given back", "error", err.Error())
	}
}

// drainInTime drains under the hook's clock, with the hook kept alive.
func (w *work) drainInTime(slice context.Context, k Kubernetes, all []Instance) (Result, error) {
	hook, err := w.Hooks.Describe(slice, w.Group, w.Hook)
	if err != nil {
		return "", w.failed(err)
	}
	w.report.Deadline = w.Policy.Bounds.deadline(w.Began, hook)
	alive, stop := context.WithCancel(slice)
	defer stop()
	go w.keepAlive(alive, hook)
	work, cancel := context.WithDeadlineCause(slice, w.report.Deadline, errDeadline)
	defer cancel()
	return w.empty(work, k, all)
}

// end sets what the report gives as the result.
func (w *work) end(status Status, reason string) {
	w.report.Status, w.report.Reason = status, reason
}

// failed is the end of a step that went wrong for another reason than that time ran out.
func (w *work) failed(err error) error {
	w.end(StatusFailed, err.Error())
	return &Failed{err}
}
