package pooler

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// The strategies that are not configured.
const (
	plain    config.Strategy = "plain"    // an eviction and nothing more: no console answered
	shutdown config.Strategy = "shutdown" // the pooler of a DaemonSet, which nobody evicts, is shut down in place
)

// Settings say how poolers of a phase are escorted.
type Settings struct {
	config.PGBouncer
	Patience time.Duration // how long a surge waits for its replacement: the phase's timeout
}

// Escort implements drain.Escort for pgbouncer.
type Escort struct {
	Settings
	Connect func(ctx context.Context) (Kubernetes, error)
	Dial    func(ctx context.Context, address string) (net.Conn, error)                // to a pod's address
	Logins  func(ctx context.Context, namespace string) iter.Seq2[escort.Login, error] // that this namespace's poolers may be shown
}

// run is one pod's escort under way.
type run struct {
	*Escort
	Settings // within the request's limits
	request  drain.EscortRequest
	log      *slog.Logger

	k       Kubernetes
	pod     escort.Pod
	version pgbouncer.Version  // of the pooler, once its console is open
	console *pgbouncer.Console // logged in once, before the first act, and held to the end
	result  drain.EscortResult

	until    time.Time // when the escort's time is over
	note     *Note     // what is recorded of the pod; nil: nothing
	load     load      // of the pooler
	stopping stopping  // how far it is with that
	accepted bool      // the eviction was: nothing is to be undone any more
}

// Run implements drain.Escort.
func (e *Escort) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	s := e.begin(r)
	defer s.close()
	err := s.seeOut(ctx)
	s.holdBack()
	return s.result, err
}

// Undo implements drain.Escort.
func (e *Escort) Undo(ctx context.Context, r drain.EscortRequest) error {
	s := e.begin(r)
	if s.note == nil {
		return nil
	}
	defer s.close()
	here, err := s.look(ctx, r.Ref)
	if err != nil || !here || s.terminating() {
		return err
	}
	return s.undo(ctx)
}

// begin bounds the settings by the request: an escort with little time has no time for a replacement.
func (e *Escort) begin(r drain.EscortRequest) *run {
	s := &run{Escort: e, Settings: e.Settings, request: r, log: r.Log, result: drain.EscortResult{Kind: Kind}, note: noteOf(r)}
	if r.MaxWait > 0 {
		s.Strategy, s.Timeout = config.StrategyEvict, min(s.Timeout, r.MaxWait)
	}
	return s
}

// seeOut sees one pod out. A pod that is terminating already keeps nobody waiting, and waits for nobody.
func (e *run) seeOut(ctx context.Context) error {
	here, err := e.look(ctx, e.request.Ref)
	switch {
	case err != nil:
		return e.conclude(ctx, err)
	case !here:
		return nil
	case e.terminating():
		return e.conclude(ctx, e.follow(ctx))
	}
	e.recover(ctx)
	leave, err := e.turn(ctx)
	if err != nil {
		return e.conclude(ctx, err)
	}
	defer leave()
	if err := e.conclude(ctx, e.act(ctx)); err != nil {
		return err
	}
	e.awaitEnd(ctx)
	return nil
}

// act does what there is to do when it is the pod's turn.
func (e *run) act(ctx context.Context) error {
	e.allow(ctx)
	if err := e.open(ctx); err != nil {
		return err
	}
	if done, err := e.finish(ctx); done || err != nil {
		return err
	}
	strategy, why := choose(e.Strategy, e.budgets(ctx))
	e.because(why)
	if strategy == config.StrategySurge {
		e.result.Strategy = string(config.StrategySurge)
		fallback, err := e.surge(ctx)
		if err != nil || fallback == "" {
			return err
		}
		e.because(fallback)
	}
	return e.retire(ctx)
}

// choose settles on a strategy for a pooler whose console is open. Where nothing is asked for, it is a surge only if no
// eviction could ever succeed.
func choose(configured config.Strategy, budgets []escort.PDB) (strategy config.Strategy, why string) {
	if configured == config.StrategySurge || configured == config.StrategyEvict {
		return configured, ""
	}
	for _, budget := range budgets {
		if budget.NeverReason != "" {
			return config.StrategySurge, "budget " + budget.Name + " never allows an eviction: " + budget.NeverReason
		}
	}
	return config.StrategyEvict, ""
}

// budgets that select the pod; none if they cannot be had: then the eviction's answer will tell.
func (e *run) budgets(ctx context.Context) []escort.PDB {
	if e.Strategy == config.StrategySurge || e.Strategy == config.StrategyEvict {
		return nil
	}
	around, err := e.k.Selectors(ctx, e.pod)
	if err != nil {
		e.log.Warn("what surrounds the pooler is not known", "error", err.Error())
	}
	return around.PDBs
}

// refusal is what an eviction was answered. It goes back to the drain as it is.
type refusal struct{ answer error }

func (r refusal) Error() string { return r.answer.Error() }

// ask asks for the eviction. One that was not answered may have been accepted.
func (e *run) ask(ctx context.Context, o drain.EvictOptions) error {
	err := e.request.Evict(ctx, o)
	if err != nil && (o.DryRun || isAnswer(err) || !e.leaving(ctx)) {
		return refusal{err}
	}
	if !o.DryRun {
		e.accepted = true
		e.log.Info("pooler evicted", "strategy", e.result.Strategy, "grace", o.Grace.String())
	}
	return nil
}

// conclude makes of what came in between what Escort returns. Before the eviction is accepted, everything is undone; and
// unless it was refused or nobody wants it any more, the pod is then evicted as it is.
func (e *run) conclude(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e.accepted {
		return e.abandon(ctx, err)
	}
	if fault := e.undo(ctx); fault != nil {
		e.log.Error("escort not undone", "error", fault.Error())
	}
	refused, is := errors.AsType[refusal](err)
	switch {
	case is:
		return refused.answer
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return e.plainly(ctx, err.Error())
	}
}

// plainly is all that can be done for a pooler that cannot be commanded.
func (e *run) plainly(ctx context.Context, why string) error {
	e.result.Strategy = string(plain)
	e.because(why)
	e.log.Warn("pooler cannot be escorted", "reason", why)
	refused, is := errors.AsType[refusal](e.ask(ctx, drain.EvictOptions{}))
	if is {
		return refused.answer
	}
	return nil
}

// abandon leaves a pod whose eviction was accepted to its grace, unless its pooler has ended already.
func (e *run) abandon(ctx context.Context, err error) error {
	if e.console != nil && e.console.HasEnded() {
		return nil
	}
	if ctx.Err() == nil {
		e.because(err.Error() + ": its grace period decides")
		e.log.Warn("pooler left to its grace period", "error", err.Error())
		return nil
	}
	e.lastWord(ctx)
	return context.Cause(ctx)
}

// because adds to the reason.
func (e *run) because(why string) {
	if e.result.Reason != "" && why != "" {
		e.result.Reason += "; "
	}
	e.result.Reason += why
}
