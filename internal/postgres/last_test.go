package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

// failsOnce fails one read of the facts: the first, the second...
type failsOnce struct {
	Clusters
	reads *int
	at    int
}

func (c failsOnce) Facts(ctx context.Context, i Identity) (Facts, error) {
	if *c.reads++; *c.reads == c.at {
		return Facts{}, errors.New("etcdserver: request timed out")
	}
	return c.Clusters.Facts(ctx, i)
}

// One read that fails at the end of the drain's time costs no client anything: the primary still moves under a pause.
func TestRun_ReadFailsWhenTimeRunsOut_LooksAgainAndMoves(t *testing.T) {
	for _, at := range []int{0, 1, 2, 3} { // connecting, the first look, the move's, the move's under its Leases
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				reads, connections := 0, 0
				e, i := w.escort()
				connect, clusters := e.Connect, e.Clusters
				e.Connect = func(ctx context.Context) (Cluster, error) {
					if connections++; at == 0 && connections == 1 {
						return nil, errors.New("connection refused")
					}
					return connect(ctx)
				}
				e.Clusters = func(c Cluster) Clusters { return failsOnce{clusters(c), &reads, at} }
				result, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(lastLead - time.Second) })
				require.NoError(t, err)
				require.Equal(t, "last", result.Strategy)
				require.Contains(t, result.Reason, "moved to pg-1")
				requireOrder(t, w.effects, "request pg-0 to pg-1", "evict pg-0")
				require.GreaterOrEqual(t, reads, at)
				w.requireNothingPaused(t)
			})
		})
	}
}

// What is never read does not keep the member until it dies with its node: enough is left for its grace.
func TestRun_NothingReadWhenTimeRunsOut_EvictedBeforeTimeForAMoveIsOver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Connect = func(context.Context) (Cluster, error) { return nil, errors.New("no route to host") }
		evictBy := time.Now().Add(lastLead - time.Second)
		_, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = evictBy })
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
		require.InDelta(t, lastMove+lastRetry, time.Until(evictBy), float64(lastRetry))
	})
}

// In maintenance mode no other member leads after an eviction, so a pause would hold clients in vain.
func TestRun_TimeRunsOutInMaintenanceMode_EvictedWithoutAPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.paused = true
		result, err, _ := w.run(t, "pg-0", lastCall)
		require.NoError(t, err)
		require.Contains(t, result.Reason, "Patroni is in maintenance mode")
		require.Equal(t, []string{"pg-0"}, w.evicted)
		require.Empty(t, w.order("pause"))
	})
}

// lastCall is a request at the end of the drain's time: there is time for a last move.
func lastCall(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(lastLead - time.Second) }

// The time for the last acts comes soon after a pause that moved nothing. The hold ends before it: else the primary would be evicted without
// a pause.
func TestRun_PauseFailsShortlyBeforeTheLastActs_HeldUntilThey(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["b"].longTx = true
		evictBy := time.Now().Add(lastLead + 30*time.Second)
		_, err, _ := w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = evictBy })
		held, is := errors.AsType[*drain.Held](err)
		require.True(t, is, "%v", err)
		require.LessOrEqual(t, held.After, time.Until(evictBy.Add(-lastLead)))

		_, err, _ = w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(time.Hour) })
		held, is = errors.AsType[*drain.Held](err)
		require.True(t, is, "%v", err)
		require.Equal(t, pausedAgainAfter, held.After, "clients are not paused again and again")
	})
}

// The invocation that has taken the drain over may be moving this primary.
func TestRun_TakenOverWhenTimeRunsOut_PrimaryIsTheOthers(t *testing.T) {
	for name, cause := range map[string]error{"taken over": drain.ErrTakenOver, "another node of this name": drain.ErrNodeReplaced} {
		for _, after := range []time.Duration{0, 5 * time.Second, 20 * time.Second} {
			t.Run(fmt.Sprintf("%s after %s", name, after), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					w := newWorld()
					w.behavior = "frozen"
					w.poolers["b"].longTx = true
					e, i := w.escort()
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(after, func() { cancel(cause) })
					_, err, _ := w.runIn(ctx, t, e, i, "pg-0", lastCall)
					require.ErrorIs(t, err, cause)
					require.Empty(t, w.evicted)
				})
			})
		}
	}
}

// A last move that fails leaves the member its whole time to shut down, wherever Patroni's loop is when it begins.
func TestRun_LastMoveFails_EvictedInTime(t *testing.T) {
	for after := range 10 {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld()
			w.behavior = "frozen"
			e, i := w.escort(func(e *Escort) { e.PauseTimeout = 90 * time.Second })
			time.Sleep(time.Duration(after) * time.Second)
			evictBy := time.Now().Add(lastMove + time.Second)
			_, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = evictBy })
			require.NoError(t, err)
			require.Equal(t, []string{"pg-0"}, w.evicted)
			require.Greater(t, time.Until(evictBy), lastPause-resumeReserve, "begun %d s into a loop", after)
		})
	}
}

// muteConsoles are consoles of which one answers no command that would change something, as that of a process that hangs.
type muteConsoles struct {
	*incarnation
	mute string
}

func (c muteConsoles) Open(ctx context.Context, p escort.Pod) (Console, error) {
	console, err := c.incarnation.Open(ctx, p)
	if err == nil && p.Name == c.mute {
		return muteConsole{console}, nil
	}
	return console, err
}

type muteConsole struct{ Console }

func (muteConsole) Unread() bool { return false }

func (muteConsole) SetLoginRetry(ctx context.Context, _ string) error {
	return escort.Sleep(ctx, time.Minute)
}

func (muteConsole) Pause(ctx context.Context, _ string) error { return escort.Sleep(ctx, time.Minute) }

func (muteConsole) Resume(context.Context, string) error { return nil }

// One transaction does not end, or one console does not answer. The clients of all others wait for the move all the same, and see nothing.
func TestRun_LastMoveCannotPauseEverything_MovesUnderThePauseOfTheOthers(t *testing.T) {
	for name, c := range map[string]struct{ behavior, asked, mute string }{
		"a transaction stays open":              {asked: "request pg-0 to pg-1"},
		"a transaction stays open, by eviction": {behavior: "refused", asked: "evict pg-0"},
		"a console does not answer":             {mute: "pooler-b", asked: "request pg-0 to pg-1"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.behavior = c.behavior
				w.poolers["b"].longTx = c.mute == ""
				e, i := w.escort()
				e.Consoles = muteConsoles{i, c.mute}
				result, err, _ := w.runAs(t, e, i, "pg-0", lastCall)
				require.NoError(t, err)
				require.Equal(t, "last", result.Strategy)
				require.Contains(t, result.Reason, "pooler db/pooler-b")
				require.Contains(t, result.Reason, "moved to pg-1")
				at := slices.Index(w.effects, c.asked)
				require.Positive(t, at, "%v", w.effects)
				require.Contains(t, w.effects[:at], "pause a/app")
				require.NotContains(t, w.effects[at-1], "resume")
				require.Contains(t, w.effects[at:], "resume a/app")
				require.Less(t, w.longest(), maxWait)
				require.Empty(t, w.poolers["a"].paused)
			})
		})
	}
}

// An eviction whose answer does not come, as with a webhook that hangs, is given up in time to resume the poolers.
func TestRun_EvictionUnderAPauseIsNotAnswered_ResumedInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "refused"
		e, i := w.escort()
		var asked bool
		var paused time.Time
		var remaining time.Duration
		_, err, _ := w.runAs(t, e, i, "pg-0", lastCall, func(r *drain.EscortRequest) {
			evict := r.Evict
			r.Evict = func(ctx context.Context, o drain.EvictOptions) error {
				if o.DryRun || asked {
					return evict(ctx, o)
				}
				asked, paused = true, time.Now()
				<-ctx.Done()
				remaining = e.PauseTimeout - time.Since(paused)
				return ctx.Err()
			}
		})
		require.NoError(t, err)
		require.True(t, asked)
		require.GreaterOrEqual(t, remaining, resumeReserve)
		require.Contains(t, w.effects, "evict pg-0")
		require.Empty(t, w.poolers["a"].paused)
	})
}

// lockedConsoles are consoles whose own user is asked of the database that they pause.
type lockedConsoles struct{ *incarnation }

func (c lockedConsoles) Open(ctx context.Context, p escort.Pod) (Console, error) {
	console, err := c.incarnation.Open(ctx, p)
	return lockedConsole{console}, err
}

type lockedConsole struct{ Console }

func (c lockedConsole) Pause(ctx context.Context, database string) error {
	if err := c.Console.Pause(ctx, database); err != nil {
		return err
	}
	return fmt.Errorf("%w: login refused", errNotReached)
}

// If the invocation died then, nobody could resume. So nothing stays paused, at the end of the drain's time too.
func TestRun_LastMoveNobodyElseCouldResume_NotUnderAPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Consoles = lockedConsoles{i}
		_, err, _ := w.runAs(t, e, i, "pg-0", lastCall)
		require.NoError(t, err)
		require.Empty(t, w.order("request"))
		w.requireNothingPaused(t)
		require.Contains(t, w.effects, "evict pg-0")
	})
}

// Whoever has taken the Lease decides, at the end of the drain's time too.
func TestRun_LastMoveLosesItsLeaseWhilePausing_NothingIsRequested(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["b"].longTx = true
		w.when("pause a/app", func() { w.seize(testCluster, nil) })
		_, _, _ = w.run(t, "pg-0", lastCall)
		require.Empty(t, w.order("request"))
	})
}

// slowConsoles are consoles that take their time to resume: the first commands fail after some seconds.
type slowConsoles struct {
	*incarnation
	failing *atomic.Int32
}

func (c slowConsoles) Open(ctx context.Context, p escort.Pod) (Console, error) {
	console, err := c.incarnation.Open(ctx, p)
	return slowConsole{console, c.failing}, err
}

type slowConsole struct {
	Console
	failing *atomic.Int32
}

func (c slowConsole) Resume(ctx context.Context, database string) error {
	if c.failing.Add(-1) >= 0 {
		_ = escort.Sleep(ctx, resumeStep)
		return errors.New("no answer")
	}
	return c.Console.Resume(ctx, database)
}

// The first move took so long that no time is left for a pause around the eviction.
func TestRun_LastMoveTakesItsTime_NoSecondPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "frozen"
		e, i := w.escort(func(e *Escort) { e.PauseTimeout = 40 * time.Second })
		failing := &atomic.Int32{}
		failing.Store(6) // three commands of each pooler
		e.Consoles = slowConsoles{i, failing}
		_, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(lastMove + time.Second) })
		require.NoError(t, err)
		require.Contains(t, w.evicted, "pg-0")
		pauses := slices.DeleteFunc(slices.Clone(w.effects), func(effect string) bool { return effect != "pause a/app" })
		require.Len(t, pauses, 1, "%v", w.effects)
		w.requireNothingPaused(t)
	})
}
