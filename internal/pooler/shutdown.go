package pooler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// signalInterval is how often to look whether SIGTERM has arrived. New transactions begin until that is seen, and new clients are
	// refused after it: a longer interval would only delay the escort.
	signalInterval = 100 * time.Millisecond
	// finalSignalTimeout is how long to wait for SIGTERM when the drain's time is over: as long as the kubelet takes where there is no
	// hook. An invocation that ends has seconds left, which it needs for itself.
	finalSignalTimeout = time.Second
	// livenessShare is the part of a liveness probe's window that a shutdown may take: one half. The first probe may fail at once, so
	// that only n-1 of n periods are certain. With one half, two periods are enough; the default is three
	// (https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/).
	livenessShare = 2
	// evictRetryTime is how long the eviction of a pooler that has shut down is repeated, and evictRetryInterval how often. The
	// shutdown cannot be rolled back, and no PDB protects the pod any more: the cause must be the API server's own.
	evictRetryTime     = 10 * time.Second
	evictRetryInterval = time.Second
	// exitInterval is how often to ask whether pgbouncer has exited, after its console has ended. The kubelet says so within a second or two.
	exitInterval = 500 * time.Millisecond
)

// byShutdown stops pgbouncer from 1.23 on, which waits for its clients on SIGTERM. Some clients never disconnect, so the console makes
// the shutdown more urgent: wait for open transactions only (https://www.pgbouncer.org/usage.html#signals).
type byShutdown struct{ *run }

// evictAndStop evicts first: a shutdown that began on the console would make SIGTERM the second signal, which ends pgbouncer at once.
func (s byShutdown) evictAndStop(ctx context.Context) error {
	if err := s.saveRecord(ctx, record{Strategy: config.StrategyEvict}); err != nil {
		return err
	}
	grace := max(s.pod.Grace, s.wantedTime().Truncate(time.Second)+time.Second)
	if err := s.evict(ctx, drain.EvictOptions{Grace: grace}); err != nil {
		return err
	}
	s.restartDeadline(ctx, grace)
	return s.stopBefore(ctx, time.Now().Add(grace))
}

// wantedTime returns how long the pod's termination may take. It does not end with this invocation: the next one continues, and no one can make
// a grace period longer.
func (s byShutdown) wantedTime() time.Duration {
	wanted := s.Timeout + s.preStopDelay()
	if by := s.request.EvictBy; !by.IsZero() {
		wanted = min(wanted, time.Until(by))
	}
	return wanted
}

func (s byShutdown) stopTerminating(ctx context.Context) error {
	return s.stopBefore(ctx, s.pod.StopsBy)
}

// stopBefore stops pgbouncer in a pod that the kubelet kills at this moment; zero: it is not known.
func (s byShutdown) stopBefore(ctx context.Context, killed time.Time) error {
	if err := s.awaitHook(ctx, killed.Add(-delayMargin)); err != nil {
		return err
	}
	if err := s.awaitClientsLeaving(ctx, escort.Earlier(s.deadline, time.Now().Add(leavingTime))); err != nil {
		return err
	}
	err := s.stopTransactions(ctx)
	if errors.Is(err, escort.ErrTimeout) {
		s.reportAborted("at the escort's timeout; the pod's grace period decides")
		return nil
	}
	return err
}

// awaitHook waits until SIGTERM has arrived. The hook comes before it, and may take until the end of the grace period if its command does not
// say for how long. The escort's time begins after it.
func (s byShutdown) awaitHook(ctx context.Context, end time.Time) error {
	if !readPreStop(poolerOf(s.pod).PreStop).open || end.Before(s.deadline) {
		return s.awaitSignal(ctx, s.deadline)
	}
	if err := s.awaitSignal(ctx, end); err != nil {
		return err
	}
	s.setDeadline(ctx, 0)
	s.deadline = escort.Earlier(s.deadline, end)
	return nil
}

// stopThenEvict shuts down first: the eviction's SIGTERM would be the second signal, and abort what is still open.
func (s byShutdown) stopThenEvict(ctx context.Context) error {
	deadline, when := s.deadline, "when it was evicted"
	if limit, limited := s.livenessLimit(); limited && limit < time.Until(deadline) {
		deadline, when = time.Now().Add(limit), "when its liveness probe was about to end it"
	}
	s.recordShutdown(ctx)
	err := s.shutDownUntil(ctx, deadline)
	switch {
	case err == nil:
		s.reportHeldBack()
	case ctx.Err() != nil:
		s.record = nil // the saved record stays: a shutdown cannot be rolled back, and the next escort continues
		return context.Cause(ctx)
	case errors.Is(err, escort.ErrTimeout):
		s.reportAborted(when)
	default:
		s.addReason(err.Error())
	}
	return s.evictShutDown(ctx)
}

// evictShutDown evicts a pod whose pgbouncer shuts down, or has. If ctx ends before that is accepted, the saved record stays.
func (s byShutdown) evictShutDown(ctx context.Context) error {
	err := s.evictRepeatedly(ctx)
	if err != nil && ctx.Err() != nil && !s.evicted {
		s.record = nil
		return context.Cause(ctx)
	}
	return err
}

// recordShutdown records that the shutdown begins. Then pgbouncer takes no console any more, and the next escort must know why. A failure
// matters only if this escort is interrupted, so it continues.
func (s byShutdown) recordShutdown(ctx context.Context) {
	if s.record == nil {
		return
	}
	rec := *s.record
	rec.ShutDown, rec.Process = time.Now().UTC(), poolerOf(s.pod).Process
	if err := s.writeRecord(ctx, rec); err != nil {
		s.log.Warn("failed to record the shutdown of pgbouncer", "error", err.Error())
	}
}

// awaitInterrupted continues a surge that was interrupted while pgbouncer shut down. It evicts the pod when pgbouncer has exited, or at the
// end of the time that its shutdown had.
func (s byShutdown) awaitInterrupted(ctx context.Context) error {
	s.result.Strategy = string(config.StrategySurge)
	s.log.Info("pgbouncer still shuts down", "since", s.record.ShutDown)
	deadline := escort.Earlier(s.deadline, s.record.ShutDown.Add(s.Timeout))
	if limit, limited := s.livenessLimit(); limited {
		deadline = escort.Earlier(deadline, s.record.ShutDown.Add(limit))
	}
	err := s.awaitExit(ctx, s.record.Process, deadline)
	switch {
	case ctx.Err() != nil:
		s.record = nil // as in stopThenEvict
		return context.Cause(ctx)
	case err != nil:
		s.addReason("its shutdown was not over in time, and how many transactions were open is not known")
	}
	return s.evictShutDown(ctx)
}

// awaitExit waits until this process of pgbouncer does not run any more, and if it is not known, until the pod is gone.
func (s byShutdown) awaitExit(ctx context.Context, process string, deadline time.Time) error {
	return escort.Poll(ctx, deadline, exitInterval, func() (bool, error) {
		pod, err := s.cluster.Inspect(ctx, s.pod.Ref)
		return err == nil && (pod == nil || process != "" && poolerOf(*pod).Process != process), nil
	})
}

func (s byShutdown) stopTransactions(ctx context.Context) error {
	return s.shutDownUntil(ctx, s.deadline)
}

// livenessLimit returns how long a shutdown may take before a liveness probe that needs the closed port makes the kubelet send SIGTERM,
// which ends pgbouncer at once. Only terminating pods are not probed (https://github.com/kubernetes/kubernetes/pull/98571).
func (s byShutdown) livenessLimit() (limit time.Duration, limited bool) {
	probe := poolerOf(s.pod).Liveness
	if !needsPort(probe, ConsolePort(s.Port, s.pod)) {
		return 0, false
	}
	return probe.Window / livenessShare, true
}

// finalShutdown sends the shutdown if SIGTERM has arrived, or does so within finalSignalTimeout. The shutdown outlives the invocation,
// and could not be sent later: pgbouncer accepts no new consoles then. While the pod's hook runs, it does.
func (s byShutdown) finalShutdown(ctx context.Context) {
	ctx = withoutCancel(ctx)
	if !s.stop.heldSince.IsZero() {
		return
	}
	if !s.stop.signaled && s.awaitSignal(ctx, time.Now().Add(finalSignalTimeout)) != nil {
		return
	}
	if err := s.beginShutdown(ctx); err != nil {
		s.log.Warn("failed to shut down pgbouncer", "error", err.Error())
		return
	}
	if err := s.recycleServers(ctx); err != nil && !s.console.HasEnded() {
		s.log.Warn("server connections may outlive the shutdown", "error", err.Error())
	}
}

// shutDownUntil lets no more transactions begin, for good, and waits for the open ones. A console that breaks, or does not answer any more, does
// not end the wait: SIGTERM would be the second signal, and abort what is open. Only an answer after the shutdown says that nothing is.
func (s byShutdown) shutDownUntil(ctx context.Context, deadline time.Time) error {
	if err := s.beginShutdown(ctx); err != nil {
		return err
	}
	counted := false
	err := escort.PollOr(ctx, s.console.Ended(), deadline, countInterval, func() (bool, error) {
		err := s.recycleServers(ctx)
		counted = counted || err == nil
		return false, err
	})
	process := poolerOf(s.pod).Process
	switch {
	case s.console.HasEnded():
		if s.reportHeldBack(); counted && s.load.inFlight == 0 || process == "" {
			return nil
		}
	case ctx.Err() != nil, errors.Is(err, escort.ErrTimeout):
		return err
	default:
		s.log.Warn("lost the console of a pgbouncer that shuts down, waiting until it has exited", "error", err.Error())
	}
	return s.awaitExit(ctx, process, deadline)
}

func (s byShutdown) beginShutdown(ctx context.Context) error {
	if s.load.sessions {
		if err := s.console.Set(withoutCancel(ctx), pgbouncer.ServerFastClose, "1"); err != nil {
			return err
		}
	}
	s.stop.heldSince = time.Now()
	usable := s.console.Usable()
	err := s.console.Shutdown(withoutCancel(ctx), pgbouncer.WaitForServers)
	if isSent := usable && !s.console.Usable(); err != nil && !isSent { // a shutdown without an answer may have begun
		return err
	}
	s.log.Info("pgbouncer shutdown started")
	return nil
}

// awaitSignal waits until the kubelet has sent SIGTERM.
func (s byShutdown) awaitSignal(ctx context.Context, deadline time.Time) error {
	err := escort.Poll(ctx, deadline, signalInterval, func() (bool, error) { return s.console.ShuttingDown(withoutCancel(ctx)) })
	if err != nil {
		return fmt.Errorf("wait for SIGTERM: %w", err)
	}
	s.stop.signaled = true
	return nil
}

// evictRepeatedly evicts the pod, and tries again if that is refused.
func (r *run) evictRepeatedly(ctx context.Context) error {
	var refused error
	err := escort.Poll(ctx, time.Now().Add(evictRetryTime), evictRetryInterval, func() (bool, error) {
		refused = r.evict(ctx, drain.EvictOptions{})
		return refused == nil, nil
	})
	if errors.Is(err, escort.ErrTimeout) {
		return refused
	}
	return err
}
