package termination

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"quiesce/internal/drain"
)

const (
	// heartbeatsPerTimeout lets two heartbeats in a row fail before the hook runs out.
	heartbeatsPerTimeout = 3
	// heartbeatTimeout bounds one heartbeat, so that one without an answer does not delay the next.
	heartbeatTimeout = 10 * time.Second
	// heartbeatRetry paces retries, and doubles with each failure in a row. A throttled account recovers within seconds, the shortest
	// timeout of a hook is 30 s, and asking a throttled account more often makes it worse.
	heartbeatRetry = 3 * time.Second
	// lastHeartbeatTimeout bounds the heartbeat at the end of an invocation, which shares handOffReserve with the Lease and the message.
	lastHeartbeatTimeout = 1500 * time.Millisecond
)

// heartbeater keeps a lifecycle action alive.
type heartbeater struct {
	hooks       Hooks
	termination Termination
	log         *slog.Logger
	optional    bool // it is no error that no action is active
	stats       *heartbeatStats
}

func (j *job) heartbeater() heartbeater {
	return heartbeater{hooks: j.Hooks, termination: j.Termination, log: j.log, stats: &j.heartbeats}
}

// heartbeatStats counts the results of heartbeats.
type heartbeatStats struct {
	failed           atomic.Int32
	accepted, denied atomic.Bool // whether any was; denied: no action was active
	isStale          atomic.Bool // the token is of an earlier action
}

func (s *heartbeatStats) observe(err error) {
	switch {
	case err == nil:
		s.accepted.Store(true)
		return
	case errors.Is(err, ErrNoActiveAction):
		s.denied.Store(true)
	}
	s.failed.Add(1)
}

// sawActiveAction reports whether there was an action to keep alive. If every heartbeat was denied, another invocation has completed
// the action: the event came twice.
func (s *heartbeatStats) sawActiveAction() bool {
	return s.accepted.Load() || s.failed.Load() > 0 && !s.denied.Load()
}

// start sends heartbeats from now on, until ctx ends or stop is called. If the invocation's end ends ctx, a last one follows. When stop
// returns, no heartbeat is under way.
func (h heartbeater) start(ctx context.Context, hook Hook) (stop func()) {
	sending, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		h.loop(sending, hook)
		if errors.Is(context.Cause(sending), errInvocationEnding) {
			h.sendLast(ctx)
		}
	})
	return func() { cancel(); ended.Wait() }
}

// loop sends heartbeats until ctx ends. A failed heartbeat is repeated and never stops the next.
func (h heartbeater) loop(ctx context.Context, hook Hook) {
	retry := heartbeatRetry
	for wait := time.Duration(0); drain.Sleep(ctx, wait) == nil; {
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

// sendLast restarts the hook's timeout for the next invocation.
func (h heartbeater) sendLast(ctx context.Context) {
	if err := h.send(context.WithoutCancel(ctx), lastHeartbeatTimeout); err != nil {
		h.log.Warn("heartbeat failed", "error", err.Error())
	}
}

// send keeps the action of our token alive. If none is active under it, it keeps the instance's present action alive.
func (h heartbeater) send(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if h.stats.isStale.Load() {
		h.termination.Token = ""
	}
	err := h.hooks.Heartbeat(ctx, h.termination)
	if h.optional && errors.Is(err, ErrNoActiveAction) {
		return nil
	}
	if h.termination.Token != "" && errors.Is(err, ErrNoActiveAction) {
		present := h.termination
		present.Token = ""
		err = h.hooks.Heartbeat(ctx, present)
		h.stats.isStale.Store(err == nil)
	}
	if !errors.Is(err, context.Canceled) { // by the end of the drain
		h.stats.observe(err)
	}
	return err
}

// startOptionalHeartbeats keeps an action alive that may begin while the instance is drained without one, for a trigger or by hand. The
// invocation that is given the action's event finds the lease held. If the hook cannot be described, the shortest timeout is assumed.
func (j *job) startOptionalHeartbeats(ctx context.Context) (stop func()) {
	if !j.owned {
		return func() {}
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	hook, err := j.Hooks.Describe(asking, j.Group, j.Policy.Hook)
	if errors.Is(err, ErrNoHook) {
		return func() {}
	}
	t := Termination{Group: j.Group, Hook: j.Policy.Hook, InstanceID: j.InstanceID}
	return heartbeater{hooks: j.Hooks, termination: t, log: j.log, optional: true, stats: &heartbeatStats{}}.start(ctx, hook)
}
