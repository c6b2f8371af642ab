package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"quiesce/internal/drain"
)

// Auto Scaling's own bounds of a hook (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html), for
// where a description does not tell.
const (
	maxHeartbeats = 100
	maxHookTime        = 48 * time.Hour
	minHeartbeatTimeout  = 30 * time.Second
)

const (
	// heartbeatsPerTimeout: two may be lost in a row before the hook runs out.
	heartbeatsPerTimeout = 3
	// heartbeatTimeout bounds one heartbeat, so that one without an answer does not stand in for the next.
	heartbeatTimeout = 10 * time.Second
	// heartbeatRetry paces those that failed, and doubles with each failure in a row: a throttled account recovers within
	// seconds, the shortest timeout that a hook can have is 30 s, and who is throttled should not ask more often for it.
	heartbeatRetry = 3 * time.Second
	// lastHeartbeatTimeout bounds the one at the end of a slice, which shares handOverReserve with the Lease and the message.
	lastHeartbeatTimeout = 1500 * time.Millisecond
)

const (
	// lateDrainTime is what a drain gets that begins when its time is nearly over, since its event waited longer than that in a
	// queue: enough for pods with the default grace of 30 s to be asked, refused, and then told. Without it they would die
	// unsignalled; more would be the operator's bound ignored.
	lateDrainTime = 2 * time.Minute
	// lateDrainShare: and never more than this part of what a drain in good time gets.
	lateDrainShare = 2
	// finalPassTime is what a slice gets that begins at the deadline or after it, since the one before it crashed or had no more time:
	// enough to see who is still there, tell them to stop, and name them. More would be the operator's bound ignored.
	finalPassTime = 10 * time.Second
	// lateRetryTime is for how long after the deadline a slice that failed is tried again: a server that refuses one request answers the
	// next. One that refuses all of them must not keep the instance.
	lateRetryTime = time.Minute
	// oldEventAge is the age from which on an event is not taken for one of the present action just because it says so. Younger
	// ones need not be looked into: an instance cannot have come back and be terminated again that fast.
	oldEventAge = 2 * time.Minute
)

// limit is after how long Auto Scaling ends the action whatever is done; zero: nobody knows.
func (h Hook) limit() time.Duration {
	return cmp.Or(h.GlobalTimeout, min(maxHeartbeats*h.HeartbeatTimeout, maxHookTime))
}

// interval is the time from one heartbeat for an instance to the next: up to a tenth less than it could be, so that the nodes of one wave
// do not heartbeat as one.
func (h Hook) interval(instanceID string) time.Duration {
	longest := cmp.Or(h.HeartbeatTimeout, minHeartbeatTimeout) / heartbeatsPerTimeout
	return longest - drain.Jitter(instanceID, longest/10)
}

// deadline is the moment by which the node must be empty: the operator's bound or the hook's own, whichever comes first,
// less the reserve that is kept for completing the action. A drain whose event came so late that this is over, or nearly,
// has a little time from when the event was first seen, if the hook has.
func (b Bounds) deadline(began, seen time.Time, h Hook) time.Time {
	inTime := b.MaxDuration - b.CompletionReserve
	available := max(inTime, seen.Sub(began)+min(lateDrainTime, inTime/lateDrainShare))
	if limit := h.limit(); limit > 0 {
		available = min(available, limit-b.CompletionReserve)
	}
	return began.Add(available)
}

// loadHook asks how long there is.
func (w *job) loadHook(ctx context.Context) (Hook, error) {
	hook, err := w.Hooks.Describe(ctx, w.Group, w.Hook)
	if err != nil {
		return Hook{}, err
	}
	if w.Token != "" && time.Since(w.Began) > oldEventAge {
		if err := w.refreshAction(ctx); err != nil {
			return Hook{}, fmt.Errorf("find out whether the event is of the present action: %w", err)
		}
	}
	w.report.Deadline = w.Policy.Bounds.deadline(w.Began, cmp.Or(w.seen, time.Now()), hook)
	return hook, nil
}

// overtime gives a slice that begins at the deadline or after it time for a last look, if the hook has that: whoever was to be told
// to stop when the slice before it ended would die untold otherwise, and unnamed. It is over before the slice is: the next one would
// only begin it anew.
func (w *job) overtime(slice context.Context, h Hook) {
	least := finalPassTime
	if end, limited := slice.Deadline(); limited {
		least = min(least, time.Until(end)/2)
	}
	look := time.Now().Add(least)
	if limit := h.limit(); limit > 0 {
		if end := w.Began.Add(limit - w.Policy.Bounds.CompletionReserve); end.Before(look) {
			look = end
		}
	}
	if w.due = w.report.Deadline; w.due.Before(look) {
		w.report.Deadline = look
	}
}

// refreshAction finds out whether an old event is of an action that is over, while the instance is in another one: it was retained and is
// terminated again, say. The drain is the same then, but its clock is not the event's, nor is the token. Without an answer nothing
// is begun: under a clock that has run out long ago, pods would be forced that have half an hour.
func (w *job) refreshAction(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	if err := w.Hooks.Heartbeat(ctx, w.Termination); !errors.Is(err, ErrNoActiveAction) {
		return err
	}
	present := w.Termination
	present.Token = ""
	if err := w.Hooks.Heartbeat(ctx, present); errors.Is(err, ErrNoActiveAction) {
		return nil // nor is any other
	} else if err != nil {
		return err
	}
	var err error
	if present.Began, err = w.presentActionBegan(ctx); err != nil {
		return err
	}
	w.log.Warn("the event is of an action that is over; the instance is in another one", "event", w.Began, "began", present.Began)
	w.Termination = present
	return nil
}

// presentActionBegan is when the present action began, or a guess if Auto Scaling does not tell it of this one: it is the same in each slice.
func (w *job) presentActionBegan(ctx context.Context) (time.Time, error) {
	began, err := w.Fleet.ActivityStarts(ctx, w.Group)
	if at, known := began[w.InstanceID]; known || err != nil {
		return at, err
	}
	return cmp.Or(w.seen, time.Now()), nil
}

// heartbeater keeps a lifecycle action alive beside whatever else is done for it.
type heartbeater struct {
	hooks Hooks
	termination    Termination
	log   *slog.Logger
	optional bool // it is no fault that no action is active
	stats *heartbeatStats
}

func (w *job) heartbeater() heartbeater {
	return heartbeater{hooks: w.Hooks, termination: w.Termination, log: w.log, stats: &w.heartbeats}
}

// keepPossibleActionAlive keeps alive the action that an instance comes to be in while it is drained for a notice, or for a person: whoever is
// sent its event finds the lease held. If the hook's settings cannot be had, it may be the shortest.
func (w *job) keepPossibleActionAlive(ctx context.Context) (stop func()) {
	if !w.Policy.OwnsGroup(w.Group) {
		return func() {}
	}
	hook, err := w.Hooks.Describe(ctx, w.Group, w.Policy.Hook)
	if errors.Is(err, ErrNoHook) {
		return func() {}
	}
	of := Termination{Group: w.Group, Hook: w.Policy.Hook, InstanceID: w.InstanceID}
	return heartbeater{hooks: w.Hooks, termination: of, log: w.log, optional: true, stats: &heartbeatStats{}}.start(ctx, hook)
}

// heartbeatStats is what came of heartbeats.
type heartbeatStats struct {
	failed        atomic.Int32
	accepted, denied atomic.Bool // whether any was accepted; refused, as no action was active
}

func (p *heartbeatStats) observe(err error) {
	switch {
	case err == nil:
		p.accepted.Store(true)
		return
	case errors.Is(err, ErrNoActiveAction):
		p.denied.Store(true)
	}
	p.failed.Add(1)
}

// sawActiveAction tells whether there was an action to be kept alive. Of one that was denied from the first, another invocation has seen the
// end: the event came twice.
func (p *heartbeatStats) sawActiveAction() bool { return p.accepted.Load() || p.failed.Load() > 0 && !p.denied.Load() }

// start heartbeats from now until ctx ends, with a last one if that is the slice's end, or until stop is called. When stop
// returns, none is under way.
func (h heartbeater) start(ctx context.Context, hook Hook) (stop func()) {
	beating, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		h.loop(beating, hook)
		if errors.Is(context.Cause(beating), errInvocationEnding) {
			h.sendLast(ctx)
		}
	})
	return func() { cancel(); ended.Wait() }
}

// loop heartbeats until ctx ends. A failed heartbeat is repeated and never stops the next.
func (h heartbeater) loop(ctx context.Context, hook Hook) {
	retry := heartbeatRetry
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		err := h.send(ctx, heartbeatTimeout)
		if wait = hook.interval(h.termination.InstanceID); err == nil {
			retry = heartbeatRetry
			continue
		}
		if ctx.Err() == nil {
			h.log.Warn("heartbeat failed", "error", err.Error())
		}
		wait = min(wait, retry)
		retry = 2 * wait
	}
}

// sendLast lets the next slice find the hook with all of its time.
func (h heartbeater) sendLast(ctx context.Context) {
	if err := h.send(context.WithoutCancel(ctx), lastHeartbeatTimeout); err != nil {
		h.log.Warn("heartbeat failed", "error", err.Error())
	}
}

// send keeps the action of our token alive or, if none is active under it, the one that the instance is in.
func (h heartbeater) send(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := h.hooks.Heartbeat(ctx, h.termination)
	if h.optional && errors.Is(err, ErrNoActiveAction) {
		return nil
	}
	if h.termination.Token != "" && errors.Is(err, ErrNoActiveAction) {
		present := h.termination
		present.Token = ""
		err = h.hooks.Heartbeat(ctx, present)
	}
	if !errors.Is(err, context.Canceled) { // by the drain's end
		h.stats.observe(err)
	}
	return err
}
