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
	// finalPassTime is what an invocation gets that sees its pods at the deadline or after it, because the one before it crashed or ran
	// out of time, or because its clock is wrong: enough to signal the remaining pods, and name them. More would ignore the operator's
	// bound.
	finalPassTime = 10 * time.Second
	// lookTime is how long an invocation tries to see the pods, whatever the clock says. An API server that is slow answers a few requests
	// within it. One that never answers must not keep the instance.
	lookTime = 20 * time.Second
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

// start is what is known of when an instance began to wait on the hook.
type start struct {
	began    time.Time // when it did, as far as is known
	received time.Time // when its event was received first
	// earliest: it began no earlier. The hook's own limit counts from then, so that the drain ends before Auto Scaling ends the action.
	earliest time.Time
}

// deadline returns when the node must be empty: at the operator's bound or the hook's own, whichever comes first, less the reserve
// for completing the action. If the event was received when this is over, or nearly, the drain has lateDrainTime from then, within
// the hook's own bound.
func (b Bounds) deadline(s start, h Hook) time.Time {
	inTime := b.MaxDuration - b.CompletionReserve
	available := max(inTime, s.received.Sub(s.began)+min(lateDrainTime, inTime/lateDrainShare))
	if limit := h.limit(); limit > 0 {
		available = min(available, s.earliest.Add(limit-b.CompletionReserve).Sub(s.began))
	}
	return s.began.Add(available)
}

// clock decides by when the node must be empty. No other code does. A renewal of the Lease can shorten the deadline from its own
// goroutine, hence the mutex.
type clock struct {
	bounds   Bounds
	earliest time.Time // see start; zero: unknown yet

	mutex     sync.Mutex
	due       time.Time // the hook's deadline before extendPastDeadline moved it; zero: unknown
	end       time.Time // the deadline
	maxWait   time.Duration
	requested time.Time // a shorter deadline that was set while nothing was evicted; zero: none
	shortened bool
	evictions int                             // how many have begun
	interrupt map[int]context.CancelCauseFunc // ends each eviction under way
}

// deadline returns the deadline; zero: unknown yet.
func (c *clock) deadline() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.end
}

// presentDeadline returns the deadline, or one that was requested since the last eviction.
func (c *clock) presentDeadline() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.applyRequested()
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

// setForHook sets the deadline of a lifecycle action.
func (c *clock) setForHook(s start, h Hook) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.earliest = s.earliest
	c.due = c.bounds.deadline(s, h)
	c.end = c.due
}

// setWithoutHook sets the deadline of a drain that waits on no hook.
func (c *clock) setWithoutHook(began time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.end = c.bounds.deadline(start{began, began, began}, Hook{})
}

// setForSpot sets the deadline of a Spot interruption. EC2 reclaims the instance at the time that it announced, so no wait may be
// longer than spotMaxWait.
func (c *clock) setForSpot(began time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.end, c.maxWait = withFinalPass(began.Add(spotTime), time.Now()), spotMaxWait
}

// extendPastDeadline gives an invocation that is at the deadline or after it finalPassTime, or what withFinalPass gives without a hook.
// Otherwise pods that were to be signaled when the invocation before it ended would be killed without a signal, and unnamed. A hook that
// is over by its own clock does not bound that: the clock may be wrong, and if it is right, the look costs nothing. The pass ends before
// the invocation does, because the next invocation would only start it again.
func (c *clock) extendPastDeadline(invocation context.Context) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.due.IsZero() {
		c.end = withFinalPass(c.end, time.Now())
		return
	}
	if extended := soon(invocation, finalPassTime); c.end.Before(extended) {
		c.end = extended
	}
}

// soon returns the time that is d from now, or half of what is left of the invocation.
func soon(invocation context.Context, d time.Duration) time.Time {
	if end, limited := invocation.Deadline(); limited {
		d = min(d, time.Until(end)/2)
	}
	return time.Now().Add(d)
}

// withLook returns a context for finding the node and listing its pods. It ends at the deadline, but not before lookTime.
func (c *clock) withLook(invocation context.Context) (context.Context, context.CancelFunc) {
	end := c.deadline()
	if look := soon(invocation, lookTime); end.Before(look) {
		end = look
	}
	return context.WithDeadlineCause(invocation, end, errDeadlineReached)
}

// wasOver reports whether the hook's deadline had passed at that time, but for extendPastDeadline.
func (c *clock) wasOver(at time.Time) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return !c.due.IsZero() && !at.Before(c.due)
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

// startEvicting returns the limits of an eviction, and a context that ends at the deadline, or when shorten sets an earlier one. A
// deadline that was requested before counts from the start.
func (c *clock) startEvicting(ctx context.Context, began time.Time) (drain.Limits, context.Context, context.CancelFunc) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.applyRequested()
	answersBy, _ := ctx.Deadline()
	ctx, stop := context.WithDeadlineCause(ctx, c.end, errDeadlineReached)
	ctx, interrupt := context.WithCancelCause(ctx)
	if c.interrupt == nil {
		c.interrupt = map[int]context.CancelCauseFunc{}
	}
	c.evictions++
	n := c.evictions
	c.interrupt[n] = interrupt
	return drain.Limits{StartedAt: began, Deadline: c.end, MaxWait: c.maxWait, AnswersBy: answersBy}, ctx, func() {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		interrupt(nil)
		delete(c.interrupt, n)
		stop()
	}
}

// shorten sets an earlier deadline. Renewals of the Lease call it again and again, with one deadline. A deadline that is not earlier
// changes nothing.
func (c *clock) shorten(deadline time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.requested = cmp.Or(c.requested, deadline)
	if len(c.interrupt) == 0 || !c.applyRequested() {
		return
	}
	for _, interrupt := range c.interrupt {
		interrupt(errDeadlineShortened)
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
// now if the deadline is over, and before the invocation does. A deadline that was requested since the last eviction counts.
func (c *clock) withDaemonTime(invocation context.Context) (context.Context, context.CancelFunc) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.applyRequested()
	end := time.Now()
	if end.Before(c.end) {
		end = c.end
	}
	end = end.Add(min(daemonShutdownTime, c.bounds.CompletionReserve/daemonShutdownShare))
	if last, limited := invocation.Deadline(); limited && last.Before(end) {
		end = last
	}
	return context.WithDeadline(context.WithoutCancel(invocation), end)
}
