package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

// Consoles are slow after the last check, and somebody asks for a switchover meanwhile. A request over HTTP carries no version, so it is
// checked once more.
func TestRun_SlowConsolesAfterTheLastCheck_LooksOnceMore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Asker, e.ConnectVia, i.pace = i, config.ViaPodIP, 400*time.Millisecond
		w.when("pause a/app", func() {
			time.Sleep(1350 * time.Millisecond) // after the facts of the last check, and before the consoles' answers
			w.locked(0, func() { w.request = map[string]string{"leader": "pg-0", "member": "pg-2"} })
		})
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, "a switchover to pg-2 has been requested")
		require.Empty(t, w.order("post", "request"))
		w.requireNothingPaused(t)
	})
}

// What is seen under the pause decides, though the assessment found nothing.
func TestRun_MemberChangesUnderPause_NothingIsRequested(t *testing.T) {
	for reason, change := range map[string]func(w *world){
		"the leader does not say how far it has written":                     func(w *world) { w.live = 0 },
		"candidate pg-1 is not a replica of timeline 1 that may be promoted": func(w *world) { w.noFailover = true },
		"candidate pg-1 is 1000 bytes behind and did not catch up":           func(w *world) { w.lag["pg-1"] = 1000 },
		"the leader changed to \"pg-2\" while poolers were being paused":     func(w *world) { w.leader = "pg-2" },
		"maintenance mode began while poolers were being paused":             func(w *world) { w.paused = true },
		"a switchover to pg-2 has been requested":                            func(w *world) { w.request = map[string]string{"leader": "pg-0", "member": "pg-2"} },
	} {
		t.Run(reason, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := busyWorld()
				w.when("pause a/app", func() { w.locked(0, func() { change(w) }) })
				_, err, _ := w.run(t, "pg-0")
				requireHeld(t, err, reason)
				require.Empty(t, w.order("request", "evict"))
				w.requireNothingPaused(t)
			})
		})
	}
}

// The settings of the poolers take their time. Whoever has taken the Lease meanwhile has resumed all that the mark names.
func TestMove_LeaseTakenBeforeThePause_NothingIsPaused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		i.pace = 400 * time.Millisecond
		w.when("record true", func() { w.seize(testCluster, nil) })
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, "was lost in the middle of the move")
		require.Empty(t, w.order("pause", "request", "evict"))
	})
}

// Another invocation has the drain now, and not yet the cluster's Lease. It waits for the Lease, and so do the clients.
func TestMove_DrainTakenOverAfterTheRequest_GivesUpAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "frozen"
		ctx, abandon := context.WithCancelCause(t.Context())
		w.when("request pg-0 to pg-1", func() { abandon(drain.ErrTakenOver) })
		e, i := w.escort()
		_, err, _ := w.runIn(ctx, t, e, i, "pg-0")
		require.Error(t, err)
		requireOrder(t, w.effects, "request pg-0 to pg-1", "withdraw", "resume a/app")
		require.Less(t, w.longest(), 5*time.Second)
		w.requireNothingPaused(t)
	})
}

// askerFunc is an Asker.
type askerFunc func(ctx context.Context) error

func (f askerFunc) Switchover(ctx context.Context, _ Member, _ string) error { return f(ctx) }

// Patroni answers that it failed, and switches over all the same a moment later.
func TestRun_BadAnswerAndLeaderChangesThen_Moved(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.ConnectVia, e.Asker = config.ViaPodIP, askerFunc(func(ctx context.Context) error {
			w.locked(0, func() { w.demote("pg-1") })
			_ = escort.Sleep(ctx, demotionTime-answerGrace/2)
			return errors.New("answer 503 of Patroni: Switchover failed")
		})
		result, err, _ := w.runAs(t, e, i, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
		w.requireNothingPaused(t)
	})
}

// A network that drops packets, or a Patroni that is slow to refuse the login, answers later than clients want to wait for.
func TestRun_RequestNotSentAfterAWhile_WritesTheKeyAfterAFreshLook(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*world)
		reason    string // empty: the primary moves
	}{
		"nothing changes":      {},
		"somebody else asks":   {func(w *world) { w.request = map[string]string{"leader": "pg-0", "member": "pg-2"} }, "a switchover to pg-2 has been requested"},
		"the candidate is old": {func(w *world) { w.lag["pg-1"] = 1000 }, "candidate pg-1 is 1000 bytes behind"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				e, i := w.escort()
				e.ConnectVia, e.Asker = config.ViaPodIP, askerFunc(func(ctx context.Context) error {
					if c.meanwhile != nil {
						w.locked(restDial/2, func() { c.meanwhile(w) })
					}
					_ = escort.Sleep(ctx, restDial)
					return ErrNotSent
				})
				result, err, _ := w.runAs(t, e, i, "pg-0")
				w.requireNothingPaused(t)
				if c.reason != "" {
					requireHeld(t, err, c.reason)
					require.Empty(t, w.order("request"))
					return
				}
				require.NoError(t, err)
				require.Contains(t, result.Reason, "asked through the Kubernetes API: the request did not reach Patroni; moved to pg-1")
				requireOrder(t, w.effects, "pause a/app", "request pg-0 to pg-1", "resume a/app", "evict pg-0")
				require.Less(t, w.longest(), 16*time.Second)
			})
		})
	}
}

// Patroni could follow a request when it is withdrawn, and clients are resumed.
func TestRun_RequestNotSentInTheEnd_KeyIsNotWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.ConnectVia, e.Asker = config.ViaPodIP, askerFunc(func(ctx context.Context) error {
			_ = escort.Sleep(ctx, 15*time.Second)
			return ErrNotSent
		})
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, ErrNotSent.Error())
		require.Empty(t, w.order("request"))
		w.requireNothingPaused(t)
	})
}

// The same, if it is known at once that the request was not sent, and clients must not wait for long.
func TestRun_RequestNotSentAndShortHold_KeyIsNotWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "no route"
		e, i := w.escort(func(e *Escort) { e.PauseTimeout = minHold + time.Second })
		e.ConnectVia, e.Asker = config.ViaPodIP, i
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, ErrNotSent.Error())
		require.Empty(t, w.order("request"))
		w.requireNothingPaused(t)
	})
}

// Whoever has taken the Lease while the request was on its way decides.
func TestRun_RequestNotSentAndLeaseTaken_KeyIsNotWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.ConnectVia, e.Asker = config.ViaPodIP, askerFunc(func(ctx context.Context) error {
			w.locked(restDial-time.Millisecond, func() {
				w.leases[testCluster].holder = &incarnation{world: w, name: "quiesce-other"}
			})
			_ = escort.Sleep(ctx, restDial)
			return ErrNotSent
		})
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, "quiesce-other")
		require.Empty(t, w.order("request", "evict"))
	})
}

// At the end of the drain's time the primary moves, though nobody may resume its poolers if this invocation dies.
func TestRun_NoMessageAtTheEndOfTime_MovesAllTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Remind = func(context.Context, time.Duration) error { return errors.New("queue does not answer") }
		result, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(lastLead - time.Second) })
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
	})
}

// The drain ends while Patroni switches over. Connections of unproven poolers, which may lead to the old primary, are closed all the same.
func TestMove_DrainEndsDuringTheSwitchover_PoolersReconnect(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		e, i := w.escort()
		w.when("request pg-0 to pg-1", cancel)
		_, _, _ = w.runIn(ctx, t, e, i, "pg-0")
		requireOrder(t, w.effects, "request pg-0 to pg-1", "resume a/app", "reconnect a/app")
		w.requireNothingPaused(t)
	})
}

// ending ends something when a console shows that its pooler is paused.
type ending struct {
	*incarnation
	end func()
}

func (c ending) Open(ctx context.Context, p escort.Pod) (Console, error) {
	console, err := c.incarnation.Open(ctx, p)
	return endingConsole{console, c}, err
}

type endingConsole struct {
	Console
	ending ending
}

func (c endingConsole) Look(ctx context.Context) (PoolerState, error) {
	state, err := c.Console.Look(ctx)
	if len(state.Databases) > 0 && state.Databases[0].Paused {
		c.ending.end()
	}
	return state, err
}

// The drain ends when everything is ready for the request. Nothing is asked for.
func TestMove_DrainEndsBeforeTheRequest_NothingIsRequested(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		e, i := w.escort()
		e.Consoles = ending{i, cancel}
		_, err, _ := w.runIn(ctx, t, e, i, "pg-0")
		require.ErrorIs(t, err, context.Canceled)
		require.NotEmpty(t, w.order("pause"))
		require.Empty(t, w.order("request"))
		w.requireNothingPaused(t)
	})
}
