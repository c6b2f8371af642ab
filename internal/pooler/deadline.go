package pooler

import (
	"context"
	"time"

	"quiesce/internal/escort"
)

// setDeadline starts the escort's time now. It adds the delay that the pod's own hook takes before SIGTERM. The deadline is never later
// than the drain's, nor, before the eviction, than the moment by which the pod must be evicted.
func (r *run) setDeadline(ctx context.Context, delay time.Duration) {
	r.deadline = time.Now().Add(r.Timeout + delay)
	if limit, limited := r.drainDeadline(ctx); limited {
		r.deadline = escort.Earlier(r.deadline, limit)
	}
}

// restartDeadline starts the escort's time again if the moment by which the pod had to be evicted has limited it. The pod is evicted now, and
// has its grace period. The kubelet kills it at the end, so what is open is counted before.
func (r *run) restartDeadline(ctx context.Context, grace time.Duration) {
	if r.request.EvictBy.IsZero() {
		return
	}
	r.setDeadline(ctx, r.preStopDelay())
	r.deadline = escort.Earlier(r.deadline, time.Now().Add(grace-delayMargin))
}

// drainDeadline returns when the drain ends the escort, or must have evicted the pod.
func (r *run) drainDeadline(ctx context.Context) (deadline time.Time, limited bool) {
	deadline, limited = ctx.Deadline()
	switch {
	case r.request.EvictBy.IsZero() || r.evicted:
		return deadline, limited
	case !limited:
		return r.request.EvictBy, true
	}
	return escort.Earlier(deadline, r.request.EvictBy), true
}
