package pooler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/pgbouncer"
)

const (
	// usefulHold is the least that a hook must hold back SIGTERM to be made use of: time for the Services to turn away and for
	// a pause. What is shorter is over before the pooler could be ready for it.
	usefulHold = 3 * time.Second
	// holdMargin is kept between being done and the end of the hook, for clocks that are read at different moments.
	holdMargin = 500 * time.Millisecond
	// graceMargin is how much longer than its hook the grace period must be, or the kubelet ends the hook early.
	graceMargin = 5 * time.Second
	// pausedAnswer is how long a paused pooler's clients may be kept waiting for the answer to the eviction: more than a healthy
	// API server needs with all its webhooks, less than one that does not answer would take.
	pausedAnswer = 5 * time.Second
	// doubtTimeout bounds the look at a pod whose eviction was not answered. The clients wait for it too.
	doubtTimeout = 500 * time.Millisecond
	// endInterval is how often to look whether an evicted pod is gone. Nobody waits for it but the next of its group.
	endInterval = time.Second
)

// retire is the strategy evict. What SIGTERM means decides the order (https://www.pgbouncer.org/usage.html#signals). Nothing is
// touched before the eviction would be allowed.
func (e *run) retire(ctx context.Context) error {
	e.result.Strategy = string(config.StrategyEvict)
	if err := e.ask(ctx, drain.EvictOptions{DryRun: true}); err != nil {
		return err
	}
	e.allowBeyond(ctx, hold(e.pod))
	if e.load.sessions {
		e.because("sessions are pooled: each ends between two of its transactions")
	}
	switch {
	case e.version.WaitsOnShutdown():
		return e.evictThenShutDown(ctx)
	case hold(e.pod) >= usefulHold:
		return e.evictThenPause(ctx)
	default:
		return e.pauseThenEvict(ctx)
	}
}

// pauseThenEvict is for a pooler that SIGTERM ends at once.
func (e *run) pauseThenEvict(ctx context.Context) error {
	if err := e.ready(ctx); err != nil {
		return err
	}
	if err := e.shed(ctx); err != nil {
		return err
	}
	return e.pauseAndEvict(ctx)
}

// pauseAndEvict asks for the eviction when nothing is in flight any more, or when the time is over.
func (e *run) pauseAndEvict(ctx context.Context) error {
	overran := e.pauseBy(ctx, e.until)
	if err := unlessOverran(overran); err != nil {
		return err
	}
	if err := e.askPaused(ctx); err != nil {
		return err
	}
	if overran != nil {
		e.cut("when it was evicted")
	}
	return nil
}

// askPaused asks for the eviction while clients wait for the answer.
func (e *run) askPaused(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pausedAnswer)
	defer cancel()
	return e.ask(ctx, drain.EvictOptions{})
}

// evictThenPause is for a pooler that SIGTERM ends at once, but only when the pod's hook is through: by then nothing must be
// in flight, and meanwhile no new clients come.
func (e *run) evictThenPause(ctx context.Context) error {
	if err := e.ready(ctx); err != nil {
		return err
	}
	signal := time.Now().Add(hold(e.pod))
	if err := e.ask(ctx, drain.EvictOptions{Grace: max(e.pod.Grace, hold(e.pod)+graceMargin)}); err != nil {
		return err
	}
	return e.pauseUntil(ctx, signal)
}

// pauseUntil has half the time for clients to leave by themselves, and the other for transactions in flight. A pooler in which
// nothing is in flight is ended before the signal, so that nobody waits for it: a container that ends while its pod does is
// not started again.
func (e *run) pauseUntil(ctx context.Context, signal time.Time) error {
	end := earlier(e.until, signal.Add(-holdMargin))
	half := time.Now().Add(time.Until(end) / 2)
	if err := e.moved(ctx, half); err != nil {
		return err
	}
	if err := e.linger(ctx, half); err != nil {
		return err
	}
	if time.Until(end) > 2*shedTime {
		if err := e.shed(ctx); err != nil {
			return err
		}
	}
	if err := e.pauseBy(ctx, end); errors.Is(err, errOverran) {
		e.cut("when the pod's hook was through")
		return nil
	} else if err != nil {
		return err
	}
	return e.console.Shutdown(steady(ctx), pgbouncer.Immediate)
}

// evictThenShutDown is for a pooler that takes SIGTERM for the request to let its clients leave, which some never do.
func (e *run) evictThenShutDown(ctx context.Context) error {
	if err := e.mark(ctx, Note{Strategy: config.StrategyEvict}); err != nil {
		return err
	}
	left := time.Until(e.until).Truncate(time.Second) + time.Second
	if err := e.ask(ctx, drain.EvictOptions{Grace: max(e.pod.Grace, left)}); err != nil {
		return err
	}
	return e.shutDown(ctx)
}

// shutDown goes on where the pod is terminating.
func (e *run) shutDown(ctx context.Context) error {
	if err := e.awaitSignal(ctx, e.until); err != nil {
		return err
	}
	if err := e.linger(ctx, earlier(e.until, time.Now().Add(lingerTime))); err != nil {
		return err
	}
	err := e.shutDownBy(ctx, e.until)
	if errors.Is(err, errOverran) {
		e.cut("when its time was over: its grace period decides")
		return nil
	}
	return err
}

// follow does what can still be done for a pod that is terminating already: its escort crashed, or somebody else evicted it.
func (e *run) follow(ctx context.Context) error {
	e.accepted = true
	e.result.Strategy = string(plain)
	e.because("it was terminating already")
	if err := e.open(ctx); err != nil {
		return err
	}
	e.result.Strategy = string(config.StrategyEvict)
	e.allowBeyond(ctx, hold(e.pod))
	if e.version.WaitsOnShutdown() {
		return e.shutDown(ctx)
	}
	second, err := e.console.OpenAnother(ctx)
	if err != nil {
		return err
	}
	e.stopping.second = second
	return e.pauseUntil(ctx, e.pod.Deleted.Add(hold(e.pod)))
}

// cut says what was lost, or may yet be.
func (e *run) cut(when string) {
	kind := "transaction"
	if e.load.sessions {
		kind = "session or transaction"
	}
	if e.load.inFlight != 1 {
		kind += "s"
	}
	e.result.AbortedTransactions = e.load.inFlight
	e.result.AbortedDetail = fmt.Sprintf("%d %s in flight %s", e.load.inFlight, kind, when)
	e.log.Warn("pooler was not quiet in time", "cut", e.result.AbortedDetail)
}

// errGone: there is nothing left to wait for.
var errGone = errors.New("the pod is gone")

// awaitEnd waits until the pooler has ended, so that the next of its group does not leave before. It takes no longer than
// the escort may.
func (e *run) awaitEnd(ctx context.Context) {
	var ended <-chan struct{}
	if e.console != nil {
		ended = e.console.Ended()
	}
	_ = await(ctx, ended, e.until, endInterval, func() error {
		if e.gone(ctx) {
			return errGone
		}
		return nil
	})
	e.holdBack()
	_ = poll(ctx, e.until, endInterval, func() (bool, error) { return e.gone(ctx), nil })
}

// gone tells whether the pod has ended, or its pooler has and it takes no more clients.
func (e *run) gone(ctx context.Context) bool {
	pod, err := e.k.Inspect(ctx, e.pod.Ref)
	return err == nil && (pod == nil || !pod.Ready && e.console != nil && e.console.HasEnded())
}

// holdBack enters for how long new transactions had to wait.
func (e *run) holdBack() {
	if since := e.stopping.since; !since.IsZero() && e.result.HeldBackSeconds == 0 {
		e.result.HeldBackSeconds = math.Round(time.Since(since).Seconds()*1000) / 1000
	}
}
