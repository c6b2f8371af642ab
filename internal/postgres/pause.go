package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// pause pauses every pooler at once. At the end of the drain's time it goes on though a transaction stays open, or a console does not answer:
// that aborts the work of few clients, and an eviction without a pause aborts that of all.
func (m *move) pause(ctx context.Context) error {
	var settings []func() error
	for _, p := range m.heldFronts() {
		settings = append(settings, func() error {
			err := step(ctx, func(ctx context.Context) error { return p.console.SetLoginRetry(ctx, loginRetry) })
			if err != nil {
				return fmt.Errorf("pooler %s: %w", p.pod.Ref, err)
			}
			return nil
		})
	}
	if err := m.orGoesOn(ctx, parallel(settings)); err != nil {
		return err
	}
	if err := m.orGoesOn(ctx, m.pauseDatabases(ctx)); err != nil {
		return err
	}
	m.log.Info("poolers paused", "poolers", len(m.heldFronts()))
	m.tellPaused(ctx)
	return nil
}

// pauseDatabases pauses the databases, and waits until their transactions have ended. At the end of the drain's time, a move goes on without
// those that do not end, so they get no more than a third of the hold.
func (m *move) pauseDatabases(ctx context.Context) error {
	limit := pauseTime
	if m.last {
		limit = min(limit, m.limit/3)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("transactions did not end within %v", limit))
	defer cancel()
	var jobs []func() error
	for _, p := range m.heldFronts() {
		for _, database := range p.databases {
			jobs = append(jobs, func() error {
				if err := m.lost(); err != nil { // settings and logins took their time
					return err
				}
				if err := p.console.Pause(ctx, database); err != nil {
					return fmt.Errorf("pause database %s of pooler %s: %w", database, p.pod.Ref, err)
				}
				return nil
			})
		}
	}
	return parallel(jobs)
}

// orGoesOn returns the error of a pause as a hold. At the end of the drain's time it returns only that of a Lease that was lost, of a ctx
// that has ended, or of a pause that would stay if this invocation died.
func (m *move) orGoesOn(ctx context.Context, err error) error {
	_, lost := errors.AsType[*drain.Held](err)
	switch {
	case err == nil:
		return nil
	case !m.last || lost || ctx.Err() != nil || errors.Is(err, errNotReached):
		return hold("%v", err)
	}
	reason := escort.Printable(err.Error())
	m.log.Warn("time is over, going on though not everything is paused", "error", reason)
	escort.AddReason(m.result, reason)
	return nil
}

// checkPaused holds the primary unless every pooler still answers and holds its clients. One that does not answer could not be resumed after
// the switchover, and one that was resumed would lead its clients into it. At the end of the drain's time the primary moves all the
// same.
func (m *move) checkPaused(ctx context.Context) error {
	if m.last {
		return nil
	}
	var jobs []func() error
	for _, p := range m.heldFronts() {
		jobs = append(jobs, func() error { return p.checkPaused(ctx) })
	}
	if err := parallel(jobs); err != nil {
		return hold("%v", err)
	}
	return nil
}

func (p *front) checkPaused(ctx context.Context) error {
	var state PoolerState
	err := step(ctx, func(ctx context.Context) (err error) { state, err = p.console.Look(ctx); return err })
	if err != nil {
		return fmt.Errorf("pooler %s stopped answering while it was paused: %w", p.pod.Ref, err)
	}
	for _, d := range state.Databases {
		if !d.Paused && slices.Contains(p.databases, d.Name) {
			return fmt.Errorf("another administrator has resumed database %s of pooler %s", drain.Short(d.Name), p.pod.Ref)
		}
	}
	return nil
}

// resumePoolers resumes what was paused, and returns what may still be paused.
func (m *move) resumePoolers(ctx context.Context) (stillPaused []markedPooler) {
	poolers := slices.Clone(m.mark.Poolers)
	if m.moved != "" { // a kube-proxy may be late: connections are tried again soon until they are closed
		for i := range poolers {
			poolers[i].Retry = ""
		}
	}
	stillPaused = resumer{m.cluster, m.Consoles, m.log, again(m.isTakenOver)}.all(ctx, poolers, m.consoles())
	for i := range stillPaused { // whoever resumes them restores the setting too
		stillPaused[i] = m.mark.Poolers[slices.IndexFunc(m.mark.Poolers, func(p markedPooler) bool { return p.Ref == stillPaused[i].Ref })]
	}
	m.result.HeldBackAt, m.result.HeldBackSeconds = time.Time{}, 0
	if len(m.mark.Poolers) > 0 {
		m.result.HeldBackAt, m.result.HeldBackSeconds = m.pausedAt, time.Since(m.pausedAt).Seconds()
	}
	return stillPaused
}

// restore restores the settings of the poolers that are resumed. It returns those that are not as they were, with those that may still be paused.
func (m *move) restore(ctx context.Context, stillPaused []markedPooler) []markedPooler {
	resumed := slices.DeleteFunc(slices.Clone(m.mark.Poolers), func(p markedPooler) bool {
		return slices.ContainsFunc(stillPaused, func(l markedPooler) bool { return l.Ref == p.Ref })
	})
	for i := range resumed {
		resumed[i].Databases = nil
	}
	return append(stillPaused, resumer{m.cluster, m.Consoles, m.log, again(m.isTakenOver)}.all(ctx, resumed, m.consoles())...)
}

// consoles returns the open consoles.
func (m *move) consoles() map[drain.Ref]Console {
	all := map[drain.Ref]Console{}
	for _, p := range m.heldFronts() {
		all[p.pod.Ref] = p.console
	}
	return all
}

// reconnect closes connections of unproven poolers, which may still lead to the old primary. PAUSE has closed all that were there before it:
// connections through a proven pooler lead to the new one, and RECONNECT would fail clients that wait for one that is being opened. It does so
// even if ctx has ended.
func (m *move) reconnect(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	unproven := slices.DeleteFunc(m.heldFronts(), func(p *front) bool { return p.proven })
	if len(unproven) == 0 || escort.Sleep(ctx, reconnectDelay) != nil || m.isTakenOver(ctx) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, escort.ConsoleTimeout)
	defer cancel()
	var jobs []func() error
	for _, p := range unproven {
		jobs = append(jobs, func() error {
			var errs []error
			for _, database := range p.databases {
				errs = append(errs, p.console.Reconnect(ctx, database))
			}
			return errors.Join(errs...)
		})
	}
	if err := parallel(jobs); err != nil {
		m.log.Warn("failed to reconnect poolers", "error", escort.Printable(err.Error()))
	}
}
