package pooler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/pgbouncer"
)

// Settings of a pooler (https://www.pgbouncer.org/config.html).
const (
	queryWaitTimeout  = "query_wait_timeout"
	clientIdleTimeout = "client_idle_timeout"
	serverFastClose   = "server_fast_close"
)

const (
	// queryWait, in seconds, is how long a client may be kept waiting for its transaction to begin while others' still run.
	// The pause before an eviction takes a fraction of it, so that hardly anybody is turned away for nothing; and one slow
	// transaction stalls the others for no longer.
	queryWait = "1"
	// idleWait, in seconds, is the least there is; shedTime gives the pooler a round of its housekeeping, which it does three
	// times a second, beyond that. Clients that are idle for longer are told so, by being disconnected, while nothing is in
	// their way, instead of finding out with their next transaction.
	idleWait = "1"
	shedTime = 1500 * time.Millisecond
	// countInterval is how often the transactions in flight are counted while they are waited for, and sessions told again to
	// end: often enough for the report's figure, and nothing that a pooler feels.
	countInterval = 500 * time.Millisecond
	// signalInterval is how often to look whether SIGTERM has come. Until it is seen, new transactions go on; after it, new
	// clients are refused: looking less often would delay nobody but ourselves.
	signalInterval = 100 * time.Millisecond
	// lastSignal is how long SIGTERM is still waited for when the drain's time is over: what the kubelet takes where there is no
	// hook. A slice that ends has seconds left, which it needs for itself.
	lastSignal = time.Second
)

// stopping is how far a pooler is with that.
type stopping struct {
	second    *pgbouncer.Console // on which a pause waits
	pause     *pgbouncer.Pending // nil: none was asked for
	signalled bool               // SIGTERM has been seen: a shutdown may be made more urgent
	since     time.Time          // when no more transactions could begin
}

// steady is for commands of the console that is held to the end: one that is given up costs the console, and while a pooler
// is paused or shuts down there may be no other. Each is bounded by itself.
func steady(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// ready gets the second console, and marks the pod with what is going to be changed.
func (e *run) ready(ctx context.Context) error {
	second, err := e.console.OpenAnother(ctx)
	if err != nil {
		return err
	}
	e.stopping.second = second
	were, err := asTheyAre(steady(ctx), e.console, e.changes())
	if err != nil {
		return err
	}
	note := Note{Strategy: config.Strategy(e.result.Strategy), Paused: true, Settings: were}
	if e.note != nil { // a surge's: what it says already has been changed
		note.Labels = e.note.Labels
		maps.Copy(were, e.note.Settings)
	}
	return e.mark(ctx, note)
}

// changes are the settings that a pooler is stopped with. In session mode, a client is never idle to the pooler, but has a
// connection to the database that can be closed between its transactions.
func (e *run) changes() map[string]string {
	changes := map[string]string{queryWaitTimeout: queryWait, clientIdleTimeout: idleWait}
	if e.load.sessions {
		changes[serverFastClose] = "1"
	}
	return changes
}

// shed disconnects the clients that do nothing. Those of session pools never count as idle.
func (e *run) shed(ctx context.Context) error {
	if err := e.console.Set(steady(ctx), clientIdleTimeout, idleWait); err != nil {
		return err
	}
	return pass(ctx, shedTime)
}

// pauseBy lets no more transactions begin, and waits for those in flight: since a pause waits for sessions to end, those are
// told to as well.
func (e *run) pauseBy(ctx context.Context, until time.Time) error {
	changes := e.changes()
	delete(changes, clientIdleTimeout)
	if err := change(steady(ctx), e.console, changes); err != nil {
		return err
	}
	e.stopping.since = time.Now()
	pause, err := e.stopping.second.Pause(steady(ctx))
	if err != nil {
		return err
	}
	e.stopping.pause = pause
	e.log.Info("pooler paused")
	if err := await(ctx, pause.Done(), until, countInterval, func() error { return e.wear(ctx) }); err != nil {
		return err
	}
	if errors.Is(pause.Err(), pgbouncer.ErrAlreadyPaused) {
		return e.awaitIdle(ctx, until)
	}
	return pause.Err()
}

// awaitIdle is the wait for a pause that somebody else has asked for, and who did has the answer.
func (e *run) awaitIdle(ctx context.Context, until time.Time) error {
	return poll(ctx, until, countInterval, func() (bool, error) {
		err := e.wear(ctx)
		return e.load.inFlight == 0, err
	})
}

// shutDownBy lets no more transactions begin, for good, and waits for those in flight.
func (e *run) shutDownBy(ctx context.Context, until time.Time) error {
	if err := e.beginShutdown(ctx); err != nil {
		return err
	}
	err := await(ctx, e.console.Ended(), until, countInterval, func() error { return e.wear(ctx) })
	if e.console.HasEnded() {
		return nil
	}
	return err
}

func (e *run) beginShutdown(ctx context.Context) error {
	if e.load.sessions {
		if err := e.console.Set(steady(ctx), serverFastClose, "1"); err != nil {
			return err
		}
	}
	e.stopping.since = time.Now()
	if err := e.console.Shutdown(steady(ctx), pgbouncer.WaitForServers); err != nil {
		return err
	}
	e.log.Info("pooler shuts down")
	return nil
}

// wear tells sessions to end, each at the end of its transaction, and counts what is in flight. Telling them once is not
// enough: a pause sent on another console may be read later, and a session begin before it.
func (e *run) wear(ctx context.Context) error {
	if e.load.sessions {
		if err := e.console.Reconnect(steady(ctx)); err != nil {
			return err
		}
	}
	pools, err := e.console.Pools(steady(ctx))
	if err != nil {
		return err
	}
	e.load.inFlight = pools.InFlight()
	return nil
}

// awaitSignal waits until the kubelet has sent SIGTERM. A shutdown that was begun on the console before that would make the
// signal the second one, which ends the pooler at once (https://www.pgbouncer.org/usage.html#signals).
func (e *run) awaitSignal(ctx context.Context, until time.Time) error {
	err := poll(ctx, until, signalInterval, func() (bool, error) {
		return e.console.ShuttingDown(steady(ctx))
	})
	if err != nil {
		return fmt.Errorf("wait for SIGTERM: %w", err)
	}
	e.stopping.signalled = true
	return nil
}

// lastWord makes a pooler that may be told to shut down do so. That outlives us, and nobody could tell it later: it lets no
// new consoles in. While its hook runs, it does.
func (e *run) lastWord(ctx context.Context) {
	if e.console == nil || e.console.HasEnded() || !e.version.WaitsOnShutdown() || !e.stopping.since.IsZero() {
		return
	}
	ctx = steady(ctx)
	if !e.stopping.signalled && e.awaitSignal(ctx, time.Now().Add(lastSignal)) != nil {
		return
	}
	if err := e.beginShutdown(ctx); err != nil {
		e.log.Warn("pooler not shut down", "error", err.Error())
		return
	}
	if err := e.wear(ctx); err != nil && !e.console.HasEnded() {
		e.log.Warn("sessions may go on", "error", err.Error())
	}
}

// linger lets clients leave by themselves, which costs them nothing, for as long as any does.
func (e *run) linger(ctx context.Context, until time.Time) error {
	fewest, last := math.MaxInt, time.Now()
	err := poll(ctx, until, clientsInterval, func() (bool, error) {
		pools, err := e.console.Pools(steady(ctx))
		if clients := pools.Clients(); err == nil && clients < fewest {
			fewest, last = clients, time.Now()
		}
		return fewest == 0 || time.Since(last) >= lingerPatience, err
	})
	return unlessOverran(err)
}

// moved waits until no Service sends new clients to the pod, and then until none has come for a while: the node proxies learn
// of it later.
func (e *run) moved(ctx context.Context, until time.Time) error {
	err := poll(ctx, until, clientsInterval, func() (bool, error) {
		serving, err := e.k.Serving(ctx, e.pod.Ref)
		return err == nil && !serving, nil
	})
	if err != nil {
		return unlessOverran(err)
	}
	known, last := map[string]bool{}, time.Now()
	err = poll(ctx, until, clientsInterval, func() (bool, error) {
		clients, err := e.console.Clients(steady(ctx))
		if anyNew(known, clients) {
			last = time.Now()
		}
		return time.Since(last) >= quietTime, err
	})
	return unlessOverran(err)
}

// anyNew tells whether any of the clients is not known yet, and learns them. A connection is known by its address.
func anyNew(known map[string]bool, clients []pgbouncer.Client) bool {
	before := len(known)
	for _, client := range clients {
		known[client.Addr] = true
	}
	return len(known) > before
}

func unlessOverran(err error) error {
	if errors.Is(err, errOverran) {
		return nil
	}
	return err
}

// leaving tells whether an eviction that was not answered has been accepted all the same.
func (e *run) leaving(ctx context.Context) bool {
	if e.k == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doubtTimeout)
	defer cancel()
	pod, err := e.k.Inspect(ctx, e.pod.Ref)
	return err == nil && (pod == nil || !pod.Deleted.IsZero())
}

// isAnswer tells whether an eviction's refusal is the API server's word on it.
func isAnswer(err error) bool {
	_, blocked := errors.AsType[*drain.Blocked](err)
	_, throttled := errors.AsType[*drain.Throttled](err)
	return blocked || throttled
}
