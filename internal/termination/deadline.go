package termination

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"quiesce/internal/drain"
)

const (
	// lateDrainTime is what a drain gets whose time is nearly over when it begins, because its event waited that long in a queue. It
	// is enough to ask pods with the default grace of 30 s to stop, be refused, and delete them. Without it they would be killed
	// without a signal. More would ignore the operator's bound.
	lateDrainTime = 2 * time.Minute
	// lateDrainShare bounds lateDrainTime by this part of what a drain in good time gets.
	lateDrainShare = 2
	// finalPassTime is what an invocation gets that begins at the deadline or after it, because the one before it crashed or ran out of
	// time: enough to list the remaining pods, signal them, and name them. More would ignore the operator's bound.
	finalPassTime = 10 * time.Second
	// lateRetryTime is for how long after the deadline a failed invocation is tried again. An API server that refuses one request
	// usually answers the next. One that refuses all must not keep the instance.
	lateRetryTime = time.Minute
)

const (
	// spotTime is what a drain has from a Spot interruption. EC2 gives two minutes
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html).
	spotTime = 100 * time.Second
	// spotMaxWait bounds how long a phase holds back the next then, and how long an escort takes. A phase that is stuck leaves the
	// others most of spotTime, and a replacement would hardly come in it.
	spotMaxWait = 25 * time.Second
	// spotReserve lets kubelets stop the pods that were signaled last, and lets EC2 be a little early.
	spotReserve = 20 * time.Second
)

// errDeadlineShortened ends a drain that continues with an earlier deadline.
var errDeadlineShortened = errors.New("deadline shortened")

// deadline returns when the node must be empty: at the operator's bound or the hook's own, whichever comes first, less the reserve
// for completing the action. If the event was received when this is over, or nearly, the drain has lateDrainTime from then, within
// the hook's own bound.
func (b Bounds) deadline(began, seen time.Time, h Hook) time.Time {
	inTime := b.MaxDuration - b.CompletionReserve
	available := max(inTime, seen.Sub(began)+min(lateDrainTime, inTime/lateDrainShare))
	if limit := h.limit(); limit > 0 {
		available = min(available, limit-b.CompletionReserve)
	}
	return began.Add(available)
}

// clock decides by when the node must be empty. No other code does. A renewal of the Lease can shorten the deadline from its own
// goroutine, hence the mutex.
type clock struct {
	bounds Bounds

	mutex     sync.Mutex
	due       time.Time // the hook's deadline before extendPastDeadline moved it; zero: unknown
	end       time.Time // the deadline
	maxWait   time.Duration
	requested time.Time // a shorter deadline that was set while nothing was evicted; zero: none
	shortened bool
	interrupt context.CancelCauseFunc // ends the eviction under way; nil: none is
}

// deadline returns the deadline; zero: unknown yet.
func (c *clock) deadline() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.end
}

// wasShortened reports whether a Spot interruption shortened the deadline.
func (c *clock) wasShortened() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.shortened
}

// currentMaxWait returns how long a phase or an escort may take; zero: as long as it is configured to.
func (c *clock) currentMaxWait() time.Duration {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.maxWait
}

// setForHook sets the deadline of a lifecycle action. Seen is when its event was received first; zero: now.
func (c *clock) setForHook(began, seen time.Time, h Hook) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.due = c.bounds.deadline(began, cmp.Or(seen, time.Now()), h)
	c.end = c.due
}

// setWithoutHook sets the deadline of a drain that waits on no hook.
func (c *clock) setWithoutHook(began time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.end = c.bounds.deadline(began, began, Hook{})
}

// setForSpot sets the deadline of a Spot interruption. EC2 reclaims the instance at the time that it announced, so no wait may be
// longer than spotMaxWait.
func (c *clock) setForSpot(began time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.end, c.maxWait = withFinalPass(began.Add(spotTime), time.Now()), spotMaxWait
}

// extendPastDeadline gives an invocation that begins at the deadline or after it finalPassTime, if the hook still has that. Otherwise
// pods that were to be signaled when the invocation before it ended would be killed without a signal, and unnamed. The pass ends
// before the invocation does, because the next invocation would only start it again.
func (c *clock) extendPastDeadline(invocation context.Context, began time.Time, h Hook) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	pass := finalPassTime
	if end, limited := invocation.Deadline(); limited {
		pass = min(pass, time.Until(end)/2)
	}
	extended := time.Now().Add(pass)
	if limit := h.limit(); limit > 0 {
		if end := began.Add(limit - c.bounds.CompletionReserve); end.Before(extended) {
			extended = end
		}
	}
	if c.end.Before(extended) {
		c.end = extended
	}
}

// isLongOver reports whether the hook's deadline passed so long ago that a step that fails is not tried again.
func (c *clock) isLongOver() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return !c.due.IsZero() && time.Since(c.due) > lateRetryTime
}

// withFinalPass extends a Spot interruption's deadline that has been reached, or will be in a moment, so that there is time for a
// final pass. An invocation that ended has kept it from being noticed in time. It does not extend a deadline that is long over: its
// instance is gone.
func withFinalPass(deadline, now time.Time) time.Time {
	extended := now.Add(finalPassTime / 2)
	if deadline.Before(extended) && now.Before(deadline.Add(spotReserve)) {
		return extended
	}
	return deadline
}

// withDeadline returns a context that ends at the deadline.
func (c *clock) withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadlineCause(ctx, c.deadline(), errDeadlineReached)
}

// startEvicting returns the limits of an eviction, and a context that ends at the deadline, or when shorten sets an earlier one. A
// deadline that was requested before counts from the start.
func (c *clock) startEvicting(ctx context.Context, began time.Time) (drain.Limits, context.Context, context.CancelFunc) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.applyRequested()
	ctx, stop := context.WithDeadlineCause(ctx, c.end, errDeadlineReached)
	ctx, c.interrupt = context.WithCancelCause(ctx)
	return drain.Limits{StartedAt: began, Deadline: c.end, MaxWait: c.maxWait}, ctx, func() {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.interrupt(nil)
		c.interrupt = nil
		stop()
	}
}

// shorten sets an earlier deadline. Renewals of the Lease call it again and again, with one deadline. A deadline that is not earlier
// changes nothing.
func (c *clock) shorten(deadline time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.requested = cmp.Or(c.requested, deadline)
	if c.interrupt != nil && c.applyRequested() {
		c.interrupt(errDeadlineShortened)
	}
}

// applyRequested makes the requested deadline the drain's, and reports whether it is earlier. The mutex must be locked.
func (c *clock) applyRequested() bool {
	now := time.Now()
	end := withFinalPass(c.requested, now)
	c.requested = time.Time{}
	if !end.Before(c.end) || !now.Before(end) {
		return false
	}
	c.end, c.maxWait, c.shortened = end, spotMaxWait, true
	return true
}

// timeLeft returns how long there is until the deadline, and no more than most.
func (c *clock) timeLeft(most time.Duration) time.Duration {
	return min(most, time.Until(c.deadline()))
}

// withDaemonTime returns a context for shutting down what DaemonSets run. It ends a share of the reserve after the deadline, or after
// now if the deadline is over, and before the invocation does.
func (c *clock) withDaemonTime(invocation context.Context) (context.Context, context.CancelFunc) {
	end := time.Now()
	if deadline := c.deadline(); end.Before(deadline) {
		end = deadline
	}
	end = end.Add(min(daemonShutdownTime, c.bounds.CompletionReserve/daemonShutdownShare))
	if last, limited := invocation.Deadline(); limited && last.Before(end) {
		end = last
	}
	return context.WithDeadline(context.WithoutCancel(invocation), end)
}
