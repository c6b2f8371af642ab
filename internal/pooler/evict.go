package pooler

import (
	"context"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// stoppedInterval is how often to look whether an evicted pod has stopped. Only the next pod of its group waits for it.
const stoppedInterval = time.Second

// evictStrategy is the strategy evict. The eviction is tried as a dry run first: nothing is changed before it would be allowed.
func (r *run) evictStrategy(ctx context.Context) error {
	r.result.Strategy = string(config.StrategyEvict)
	if err := r.evict(ctx, drain.EvictOptions{DryRun: true}); err != nil {
		return err
	}
	r.setDeadline(ctx, r.preStopDelay())
	if r.load.sessions {
		r.addReason("session pooling: each session ends between two of its transactions")
	}
	return r.method().evictAndStop(ctx)
}

// drainTerminating does what can still be done for a pod that is terminating already: its escort crashed, or someone else evicted it.
func (r *run) drainTerminating(ctx context.Context) error {
	r.evicted = true
	r.result.Strategy = string(plain)
	r.addReason("already terminating")
	if err := r.openConsole(ctx); err != nil {
		return err
	}
	r.result.Strategy = string(config.StrategyEvict)
	r.setDeadline(ctx, r.preStopDelay())
	return r.method().stopTerminating(ctx)
}

// preStopDelay returns how long the pod's own hook is certain to hold back SIGTERM. A hook that sleeps for longer than the pod's grace
// period, and longer than an escort may take, counts as no longer: the escort extends the grace period by no more.
func (r *run) preStopDelay() time.Duration {
	return min(readPreStop(poolerOf(r.pod).PreStop).delay, max(r.pod.Grace, r.Timeout))
}

// awaitStopped waits until pgbouncer has stopped, so that the next pod of its group does not stop before. It takes no longer than the
// escort may.
func (r *run) awaitStopped(ctx context.Context) {
	var exited <-chan struct{}
	if r.console != nil {
		exited = r.console.Ended()
	}
	stopped := func() (bool, error) { return r.stopped(ctx), nil }
	_ = escort.PollOr(ctx, exited, r.deadline, stoppedInterval, stopped)
	r.reportHeldBack()
	_ = escort.Poll(ctx, r.deadline, stoppedInterval, stopped)
}

// stopped reports whether the pod is gone, or pgbouncer has exited and no Service counts the pod as ready.
func (r *run) stopped(ctx context.Context) bool {
	pod, err := r.cluster.Inspect(ctx, r.pod.Ref)
	if err != nil || pod == nil {
		return err == nil
	}
	process := poolerOf(r.pod).Process
	runs := process != "" && poolerOf(*pod).Process == process // the connection may have ended, and not pgbouncer
	return !pod.Ready && !runs && r.console != nil && r.console.HasEnded()
}
