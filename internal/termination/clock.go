package termination

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// heartbeatsPerTimeout: two may be lost in a row before the hook runs out.
	heartbeatsPerTimeout = 3
	// heartbeatTimeout bounds one heartbeat, so that one without an answer does not stand in for the next.
	heartbeatTimeout = 10 * time.Second
	// heartbeatRetry paces those that failed: a throttled account recovers within seconds, and the shortest timeout that a
	// hook can have is 30 s.
	heartbeatRetry = 3 * time.Second
)

// deadline is the moment by which the node must be empty: the operator's bound or the hook's own, whichever comes first,
// less the reserve that is kept for completing the action.
func (b Bounds) deadline(began time.Time, h Hook) time.Time {
	limit := b.MaxDuration
	if h.GlobalTimeout > 0 {
		limit = min(limit, h.GlobalTimeout)
	}
	return began.Add(limit - b.Reserve)
}

// keepAlive heartbeats from now until ctx ends. A failed heartbeat is repeated and never stops the next.
func (w *work) keepAlive(ctx context.Context, hook Hook) {
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		wait = jittered(hook.HeartbeatTimeout / heartbeatsPerTimeout)
		if err := w.beat(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("heartbeat failed", "error", err.Error())
			wait = min(wait, heartbeatRetry)
		}
	}
}

func (w *work) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	return w.Hooks.Heartbeat(ctx, w.Termination)
}

// jittered is up to a tenth less than d, so that the nodes of one wave do not heartbeat as one.
func jittered(d time.Duration) time.Duration {
	if d < 10 {
		return d
	}
	return d - rand.N(d/10)
}
