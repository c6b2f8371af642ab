package pgbouncer

import (
	"context"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"net"
	"time"

	"quiesce/internal/drain"
)

// Strategy is how a pooler is made to leave.
type Strategy string

// The strategies. Plain is what is left where no console answers: an eviction and nothing more.
const (
	Auto  Strategy = "auto"
	Evict Strategy = "evict"
	Surge Strategy = "surge"
	Plain Strategy = "plain"
)

// Settings say how poolers of a phase are escorted.
type Settings struct {
	Strategy Strategy
	Timeout  time.Duration // of one pod's escort, waiting for its turn excluded
	Patience time.Duration // of a surge for its replacement: the phase's timeout
	Port     int           // of the console; zero: the pooler's own
	Forward  bool          // reach the console over the API server, not at the pod's address
	TLS      TLSMode

	ServerName string         // in the console's certificate, for TLSVerifyFull
	RootCAs    *x509.CertPool // that may have signed it, for TLSVerifyFull
}

// Escort implements drain.Escort for pgbouncer.
type Escort struct {
	Settings
	Connect func(ctx context.Context) (Kubernetes, error)
	Dial    func(ctx context.Context, address string) (net.Conn, error)         // to a pod's address
	Logins  func(ctx context.Context, namespace string) iter.Seq2[Login, error] // that this namespace's poolers may be shown
	Log     *slog.Logger
}

// escorting is one pod's escort under way.
type escorting struct {
	*Escort
	k       Kubernetes
	pod     Pod
	evict   func(context.Context, drain.EvictOptions) error
	console *Console // logged in once, before the first act, and held to the end
	result  drain.Escorted

	log      *slog.Logger
	leaveBy  time.Time // when the eviction must have been asked for; zero: there is no hurry
	until    time.Time // when the escort's time is over
	note     *Note     // on the pod; nil: it has no mark
	load     load      // of the pooler
	stopping stopping  // how far it is with that
	accepted bool      // the eviction was: nothing is to be undone any more
}

// Escort implements drain.Escort.
func (e *Escort) Escort(ctx context.Context, p drain.Pod, evict func(context.Context, drain.EvictOptions) error) (drain.Escorted, error) {
	s := e.begin(p)
	s.evict = evict
	defer s.close()
	err := s.seeOut(ctx, p)
	s.holdBack()
	return s.result, err
}

// Release implements drain.Escort.
func (e *Escort) Release(ctx context.Context, p drain.Pod) error {
	if _, marked := noteOn(Pod{Labels: p.Labels, Annotations: p.Annotations}); !marked {
		return nil
	}
	s := e.begin(p)
	defer s.close()
	here, err := s.look(ctx, p.Ref)
	if err != nil || !here || s.terminating() {
		return err
	}
	if note, marked := noteOn(s.pod); marked {
		s.note = &note
	}
	return s.undo(ctx)
}

func (e *Escort) begin(p drain.Pod) *escorting {
	return &escorting{Escort: e, log: e.Log.With("pod", p.String()), leaveBy: p.LeaveBy}
}

// seeOut sees one pod out. A pod that is terminating already keeps nobody waiting, and waits for nobody.
func (e *escorting) seeOut(ctx context.Context, p drain.Pod) error {
	here, err := e.look(ctx, p.Ref)
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
func (e *escorting) act(ctx context.Context) error {
	e.allow(ctx)
	if err := e.open(ctx); err != nil {
		return err
	}
	if done, err := e.finish(ctx); done || err != nil {
		return err
	}
	strategy, why := choose(e.Strategy, e.budgets(ctx))
	e.because(why)
	if strategy == Surge {
		e.result.Strategy = string(Surge)
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
func choose(configured Strategy, budgets []Budget) (strategy Strategy, why string) {
	if configured == Surge || configured == Evict {
		return configured, ""
	}
	for _, budget := range budgets {
		if budget.Never != "" {
			return Surge, "budget " + budget.Name + " never allows an eviction: " + budget.Never
		}
	}
	return Evict, ""
}

// budgets that select the pod; none if they cannot be had: then the eviction's answer will tell.
func (e *escorting) budgets(ctx context.Context) []Budget {
	if e.Strategy == Surge || e.Strategy == Evict {
		return nil
	}
	around, err := e.k.Around(ctx, e.pod)
	if err != nil {
		e.log.Warn("what surrounds the pooler is not known", "error", err.Error())
	}
	return around.Budgets
}

// refusal is what an eviction was answered. It goes back to the drain as it is.
type refusal struct{ answer error }

func (r refusal) Error() string { return r.answer.Error() }

// ask asks for the eviction. One that was not answered may have been accepted.
func (e *escorting) ask(ctx context.Context, o drain.EvictOptions) error {
	err := e.evict(ctx, o)
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
func (e *escorting) conclude(ctx context.Context, err error) error {
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
func (e *escorting) plainly(ctx context.Context, why string) error {
	e.result.Strategy = string(Plain)
	e.because(why)
	e.log.Warn("pooler cannot be escorted", "reason", why)
	refused, is := errors.AsType[refusal](e.ask(ctx, drain.EvictOptions{}))
	if is {
		return refused.answer
	}
	return nil
}

// abandon leaves a pod whose eviction was accepted to its grace, unless its pooler has ended already.
func (e *escorting) abandon(ctx context.Context, err error) error {
	if e.console != nil && e.console.hasEnded() {
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
func (e *escorting) because(why string) {
	if e.result.Reason != "" && why != "" {
		e.result.Reason += "; "
	}
	e.result.Reason += why
}
