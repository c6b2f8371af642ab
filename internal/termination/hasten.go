package termination

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
)

// errDeadlineShortened ends a drain that goes on under a shorter clock.
var errDeadlineShortened = errors.New("a notice says that the instance goes sooner")

// notifyHolder has whoever drains the instance learn of a Spot interruption: what drains for a lifecycle action takes half an hour for
// an instance that goes in two minutes. Should that one's lease be given back before it is heard, the notice comes again.
func (w *job) notifyHolder(ctx context.Context, k Kubernetes) {
	if w.Trigger != SpotInterruption {
		return
	}
	if err := k.ShortenDeadline(ctx, w.InstanceID, w.report.Deadline); err != nil {
		w.log.Warn("the drain under way was not told of the notice", "error", err.Error())
	}
}

// hasten notes a deadline that is told by tellOwner. The first is as good as the others: they are one notice's.
func (w *job) hasten(deadline time.Time) {
	select {
	case w.sooner <- deadline:
	default:
	}
}

// evict drains the node, and goes on in a hurry when it hears of a notice. It returns why the drain's time is over, if it is.
func (w *job) evict(ctx context.Context, cluster drain.Cluster, node drain.Node) (cause error) {
	for {
		drainer := w.drainer
		drainer.Log = w.log
		drainer.Limits = drain.Limits{StartedAt: w.Began, Deadline: w.report.Deadline, Force: w.Policy.Force, MaxWait: w.maxWait}
		by, end := w.until(ctx)
		w.report.Report = drainer.Resume(by, cluster, node, w.report.Report)
		cause = context.Cause(by)
		if end(); !errors.Is(cause, errDeadlineShortened) {
			return cause
		}
	}
}

// until bounds ctx by the deadline, and ends it with errSooner when an earlier one is heard of, which is the deadline then.
func (w *job) until(ctx context.Context) (by context.Context, end func()) {
	ctx, stop := context.WithDeadlineCause(ctx, w.report.Deadline, errDeadlineReached)
	by, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if w.hears(by) {
			cancel(errDeadlineShortened)
		}
	}()
	return by, func() { stop(); cancel(nil); <-done }
}

// hears waits for an earlier deadline, which becomes the drain's.
func (w *job) hears(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case deadline := <-w.sooner:
			if deadline = withFinalPass(deadline, time.Now()); deadline.Before(w.report.Deadline) && time.Now().Before(deadline) {
				w.log.Warn("a notice says that the instance goes sooner", "deadline", deadline, "was", w.report.Deadline)
				w.maxWait, w.report.Deadline, w.report.Trigger = spotMaxWait, deadline, SpotInterruption
				return true
			}
		}
	}
}

// withFinalPass gives a notice that is heard at its deadline, or a little after it, time for a last look: a slice that ended kept it
// from being heard sooner. One that is long over is of no instance that is still there.
func withFinalPass(deadline, now time.Time) time.Time {
	look := now.Add(finalPassTime / 2)
	if deadline.Before(look) && now.Before(deadline.Add(spotReserve)) {
		return look
	}
	return deadline
}
