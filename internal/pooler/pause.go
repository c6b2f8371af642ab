package pooler

import (
	"context"
	"errors"
	"maps"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// queryWait, in seconds, is how long a client may wait for its transaction to begin while others' are still open. The pause before
	// an eviction takes a fraction of it, so that hardly any client is turned away for nothing. One slow transaction stalls the others
	// for no longer.
	queryWait = "1"
	// idleWait, in seconds, is the least that pgbouncer accepts. dropIdleTime gives it one more round of its housekeeping, which it
	// does three times a second. Clients that are idle for longer are disconnected before the pause. Otherwise their next transaction
	// would fail.
	idleWait     = "1"
	dropIdleTime = 1500 * time.Millisecond
	// minUsefulDelay is the least that a hook must hold back SIGTERM to be of use: time for the Services to notice, and for a pause. A
	// shorter hook is over before pgbouncer is ready for it.
	minUsefulDelay = 3 * time.Second
	// delayMargin is kept between being done and the end of the hook, for clocks that are read at different moments.
	delayMargin = 500 * time.Millisecond
	// graceMargin is how much longer than its hook the grace period must be. Otherwise the kubelet ends the hook early.
	graceMargin = 5 * time.Second
	// pausedEvictTimeout is how long a paused pooler's clients may wait for the answer to the eviction. A healthy API server needs less
	// with all its webhooks; one that does not answer would take more.
	pausedEvictTimeout = 5 * time.Second
)

// byPause stops pgbouncer before 1.23, which exits on SIGTERM at once. It pauses it before the signal
// (https://www.pgbouncer.org/usage.html#signals).
type byPause struct{ *run }

func (p byPause) evictAndStop(ctx context.Context) error {
	if p.preStopDelay() >= minUsefulDelay {
		return p.evictThenPause(ctx)
	}
	return p.stopThenEvict(ctx)
}

func (p byPause) stopTerminating(ctx context.Context) error {
	second, err := p.console.OpenAnother(ctx)
	if err != nil {
		return err
	}
	p.stop.second = second
	signal := p.pod.Deleted.Add(p.preStopDelay())
	if by := p.pod.StopsBy; !by.IsZero() { // a person may have given it less grace than its hook takes
		signal = escort.Earlier(signal, by)
	}
	return p.pauseBefore(ctx, signal)
}

func (p byPause) stopTransactions(ctx context.Context) error {
	if err := p.prepare(ctx); err != nil {
		return err
	}
	return p.pauseUntilIdle(ctx, p.deadline)
}

// livenessLimit is none: a pause leaves the port open.
func (byPause) livenessLimit() (limit time.Duration, limited bool) { return 0, false }

// finalShutdown does nothing: SIGTERM ends pgbouncer.
func (byPause) finalShutdown(context.Context) {}

// stopThenEvict evicts the pod when no transaction is open any more, or at the deadline.
func (p byPause) stopThenEvict(ctx context.Context) error {
	if err := p.prepare(ctx); err != nil {
		return err
	}
	if err := p.dropIdleClients(ctx); err != nil {
		return err
	}
	paused := p.pauseUntilIdle(ctx, p.deadline)
	if err := escort.IgnoreTimeout(paused); err != nil {
		return err
	}
	if err := p.evictPaused(ctx); err != nil {
		return err
	}
	if paused != nil {
		p.reportAborted("when it was evicted")
	}
	return nil
}

// evictPaused evicts the pod while clients wait for the answer.
func (p byPause) evictPaused(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pausedEvictTimeout)
	defer cancel()
	return p.evict(ctx, drain.EvictOptions{})
}

// evictThenPause uses the delay of the pod's hook. New clients go elsewhere meanwhile, and at its end no transaction must be open.
func (p byPause) evictThenPause(ctx context.Context) error {
	if err := p.prepare(ctx); err != nil {
		return err
	}
	delay := p.preStopDelay()
	signal := time.Now().Add(delay)
	grace := max(p.pod.Grace, delay+graceMargin)
	if err := p.evict(ctx, drain.EvictOptions{Grace: grace}); err != nil {
		return err
	}
	p.restartDeadline(ctx, grace)
	return p.pauseBefore(ctx, signal)
}

// pauseBefore gives half of the time before the signal to clients that disconnect by themselves, and half to open transactions. When
// none is open, it shuts pgbouncer down, so that no client waits for the signal. A container that exits while its pod terminates is not
// restarted.
func (p byPause) pauseBefore(ctx context.Context, signal time.Time) error {
	end := escort.Earlier(p.deadline, signal.Add(-delayMargin))
	half := time.Now().Add(time.Until(end) / 2)
	if err := p.awaitServicesRemoved(ctx, half); err != nil {
		return err
	}
	if err := p.awaitClientsLeaving(ctx, half); err != nil {
		return err
	}
	if time.Until(end) > 2*dropIdleTime {
		if err := p.dropIdleClients(ctx); err != nil {
			return err
		}
	}
	if err := p.pauseUntilIdle(ctx, end); errors.Is(err, escort.ErrTimeout) {
		p.reportAborted("when the delay of the pod's preStop hook ended")
		return nil
	} else if err != nil {
		return err
	}
	return p.console.Shutdown(withoutCancel(ctx), pgbouncer.Immediate)
}

// prepare opens the second console, and records what is going to change.
func (p byPause) prepare(ctx context.Context) error {
	mayPass := func(err error) bool { return isUnreached(err) && p.console.Usable() }
	err := p.again(ctx, mayPass, func() (err error) { p.stop.second, err = p.console.OpenAnother(ctx); return err })
	if err != nil {
		return err
	}
	former, err := currentSettings(withoutCancel(ctx), p.console, p.changes())
	if err != nil {
		return err
	}
	p.stop.leftover = p.record != nil && p.record.Paused && !p.recovered
	foreign, err := p.isPausedByOthers(ctx)
	if err != nil {
		return err
	}
	rec := record{Strategy: config.Strategy(p.result.Strategy), Paused: !foreign, Settings: former}
	if p.record != nil { // a surge's: what it names was changed before
		rec.Labels = p.record.Labels
		maps.Copy(former, p.record.Settings)
	}
	return p.saveRecord(ctx, rec)
}

// isPausedByOthers reports whether a person or an operator has paused pgbouncer, such as during maintenance. They end that pause.
// Before 1.19, only the answer to a PAUSE shows it, and an escort that crashes before the answer leaves a record of its own pause.
func (p byPause) isPausedByOthers(ctx context.Context) (bool, error) {
	paused, err := p.console.IsPaused(withoutCancel(ctx))
	if errors.Is(err, pgbouncer.ErrUnsupported) {
		return false, nil
	}
	return paused && !p.stop.leftover, err
}

// disownPause records that another client has paused pgbouncer, so that nothing ends that pause.
func (p byPause) disownPause(ctx context.Context) error {
	if p.evicted || p.stop.leftover || !p.record.Paused {
		return nil
	}
	rec := *p.record
	rec.Paused = false
	return p.writeRecord(ctx, rec)
}

// changes returns the settings with which pgbouncer is paused. In session pooling no client counts as idle, but its server connection
// can be closed between two transactions.
func (p byPause) changes() map[string]string {
	changes := map[string]string{pgbouncer.QueryWaitTimeout: queryWait, pgbouncer.ClientIdleTimeout: idleWait}
	if p.load.sessions {
		changes[pgbouncer.ServerFastClose] = "1"
	}
	return changes
}

// dropIdleClients disconnects idle clients. Clients of session pools never count as idle.
func (p byPause) dropIdleClients(ctx context.Context) error {
	if err := p.console.Set(withoutCancel(ctx), pgbouncer.ClientIdleTimeout, idleWait); err != nil {
		return err
	}
	return escort.Sleep(ctx, dropIdleTime)
}

// pauseUntilIdle lets no more transactions begin, and waits for the open ones. A pause waits for sessions too, so they are told to end.
func (p byPause) pauseUntilIdle(ctx context.Context, deadline time.Time) error {
	changes := p.changes()
	delete(changes, pgbouncer.ClientIdleTimeout)
	if err := applySettings(withoutCancel(ctx), p.console, changes); err != nil {
		return err
	}
	p.stop.heldSince = time.Now()
	pause, err := p.stop.second.Pause(withoutCancel(ctx))
	if err != nil {
		return err
	}
	p.stop.pause = pause
	p.log.Info("pgbouncer paused")
	err = escort.PollOr(ctx, pause.Done(), deadline, countInterval, func() (bool, error) { return false, p.recycleServers(ctx) })
	if err != nil {
		return err
	}
	if errors.Is(pause.Err(), pgbouncer.ErrAlreadyPaused) {
		if err := p.disownPause(ctx); err != nil {
			return err
		}
		return p.awaitIdle(ctx, deadline)
	}
	return pause.Err()
}

// awaitIdle waits for a pause that someone else sent, and to whom pgbouncer answers.
func (p byPause) awaitIdle(ctx context.Context, deadline time.Time) error {
	return escort.Poll(ctx, deadline, countInterval, func() (bool, error) {
		err := p.recycleServers(ctx)
		return p.load.inFlight == 0, err
	})
}
