package postgres

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

func TestRun_CNPGPrimary_MovesUnderPauseAndIsEvictedWhenItStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCNPGWorld()
		c.conflicts = 2
		result, err, _ := c.runInstance(t, "pg-0")
		require.NoError(t, err)
		for _, pooler := range []string{"a", "b"} {
			requireOrder(t, c.effects, "mark true", "record true", "pause "+pooler+"/app", "primary pg-1", "resume "+pooler+"/app",
				"reconnect "+pooler+"/app", "mark false", "evict pg-0")
		}
		require.False(t, c.early)
		require.Equal(t, "switchover", result.Strategy)
		require.Equal(t, "1.30.0", result.Version)
		require.Contains(t, result.Reason, "moved to pg-1; 2 of 2 poolers held; unproven")
		require.GreaterOrEqual(t, c.longest(), promotionTime+labelTime, "the Service leads to the new primary before clients go on")
		require.Less(t, c.longest(), 11*time.Second)
		c.requireNothingPaused(t)
	})
}

// Each case is a row of what may fail before the request is accepted. The primary stays, and every client goes on at once.
func TestRun_CNPGMoveFails_ClientsGoOnAndThePrimaryIsHeld(t *testing.T) {
	for name, row := range map[string]struct {
		change  func(*cnpgWorld)
		reason  string
		paused  bool
		longest time.Duration
	}{
		"a permission is missing":     {func(c *cnpgWorld) { c.refusal = escort.ErrForbidden }, "permission missing", true, 2 * time.Second},
		"no answer, and not accepted": {func(c *cnpgWorld) { c.refusal = errors.New("connection reset") }, "connection reset", true, 4 * time.Second},
		"the Cluster never rests":     {func(c *cnpgWorld) { c.conflicts = 100 }, "changed since it was read", true, 3 * time.Second},
		"the operator discards it": {func(c *cnpgWorld) { c.behavior = "discarded" },
			"CloudNativePG discarded the request; the log of its operator says why", true, 5 * time.Second},
		"clients write past the poolers": {func(c *cnpgWorld) { c.grows = 5000 },
			"something writes past the poolers: the log grew by 4.9 KiB in 500ms while all of them were paused", true, 3 * time.Second},
		"the leader loses its position": {func(c *cnpgWorld) { c.mute = 2 },
			"the leader does not say how far it has written: it does not know its position in the log", true, 4 * time.Second},
		"a pooler cannot hold its clients": {func(c *cnpgWorld) {
			c.pooler, c.poolers["c"] = true, newWorldPooler()
			c.poolers["c"].noConsole = true
		}, "clients of pooler db/pooler-c cannot be held, and CloudNativePG can lose what they write", false, 0},
		"an instance is not ready": {func(c *cnpgWorld) { c.instances = 4 }, "only 3 of 4 instances are ready", false, 0},
		"somebody else was first":  {func(c *cnpgWorld) { c.target = "pg-2" }, "its cluster is moving: a switchover from pg-0 to pg-2 has been requested", false, 0},
		"clients would not wait long enough": {func(c *cnpgWorld) {
			for _, p := range c.poolers {
				p.queryWait = 45 * time.Second
			}
		}, "a switchover may take 18s: raise query_wait_timeout", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCNPGWorld()
				row.change(c)
				_, err, _ := c.runInstance(t, "pg-0")
				requireHeld(t, err, row.reason)
				require.Equal(t, row.paused, len(c.order("pause")) > 0)
				require.LessOrEqual(t, c.longest(), row.longest)
				require.Empty(t, c.evicted)
				require.Equal(t, "pg-0", c.leader)
				require.Nil(t, c.records["pg-0"])
				c.requireNothingPaused(t)
			})
		})
	}
}

// A pooler for reads is not in front of the primary. One for any instance is.
func TestRun_CNPGPoolerOfItsOwn_HoldsThePrimaryUnlessItIsForReplicas(t *testing.T) {
	for kind, reason := range map[string]string{
		"ro": "", "r": "clients of pooler db/pooler-c cannot be held", "rw": "one of CloudNativePG's own cannot be paused safely",
	} {
		bubble.Test(t, func(t *testing.T) {
			c := newCNPGWorld()
			c.pooler, c.poolerType, c.poolers["c"] = true, kind, newWorldPooler()
			c.poolers["c"].noConsole = true
			result, err, _ := c.runInstance(t, "pg-0")
			if reason != "" {
				requireHeld(t, err, reason)
				return
			}
			require.NoError(t, err)
			require.Contains(t, result.Reason, "2 of 2 poolers held")
		})
	}
}

// While poolers are being paused, the Cluster may change.
func TestRun_CNPGChangesUnderPause_NothingIsRequested(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*cnpgWorld)
		reason string
	}{
		"another switchover":    {func(c *cnpgWorld) { c.target = "pg-2" }, "a switchover from pg-0 to pg-2 has been requested"},
		"the operator works":    {func(c *cnpgWorld) { c.phase = "Upgrading cluster" }, `the Cluster's phase is "Upgrading cluster"`},
		"the candidate stops":   {func(c *cnpgWorld) { c.starting["pg-1"] = time.Now().Add(time.Hour) }, "candidate pg-1 is not a replica"},
		"the candidate lags":    {func(c *cnpgWorld) { c.lag["pg-1"] = 100 }, "candidate pg-1 is 100 bytes behind"},
		"the leader is another": {func(c *cnpgWorld) { c.leader, c.target = "pg-2", "pg-2" }, `the leader changed to "pg-2"`},
		"another was a little earlier": {func(c *cnpgWorld) { c.conflicts, c.meanwhile = 1, func() { c.target = "pg-2" } },
			"a switchover from pg-0 to pg-2 has been requested"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCNPGWorld()
				for _, p := range c.poolers {
					p.busy = time.Second
				}
				time.AfterFunc(500*time.Millisecond, func() {
					c.mutex.Lock()
					defer c.mutex.Unlock()
					row.change(c)
				})
				_, err, _ := c.runInstance(t, "pg-0")
				requireHeld(t, err, row.reason)
				require.NotEmpty(t, c.order("pause"))
				require.Empty(t, c.order("primary"))
				c.requireNothingPaused(t)
			})
		})
	}
}

// The answer to the request is lost. Whether it was accepted is read, never guessed, and it is not written again.
func TestRun_CNPGAnswerLost_WhatWasAcceptedIsFollowed(t *testing.T) {
	for name, blind := range map[string]bool{"the Cluster can be read": false, "nothing can be read": true} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCNPGWorld()
				c.lostAfter, c.blind = errors.New("connection reset"), blind
				result, err, _ := c.runInstance(t, "pg-0")
				require.Equal(t, []string{"primary pg-1"}, c.order("primary"))
				c.requireNothingPaused(t)
				if blind {
					requireHeld(t, err, "has begun and cannot be withdrawn")
					require.Less(t, c.longest(), maxWait)
					require.Empty(t, c.evicted)
					return
				}
				require.NoError(t, err)
				require.Contains(t, result.Reason, "moved to pg-1")
			})
		})
	}
}

// A switchover that has begun cannot be withdrawn. Clients go on at the limit. The old primary is not evicted until the new one leads, not
// even at the end of the drain's time, and the target is never written again.
func TestRun_CNPGSwitchoverIsLate_PrimaryStaysUntilItIsOver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCNPGWorld()
		c.takes = 3 * time.Minute
		_, err, _ := c.runInstance(t, "pg-0")
		requireHeld(t, err, "the switchover from pg-0 to pg-1 has begun and cannot be withdrawn, but did not end within 25s")
		held, _ := errors.AsType[*drain.Held](err)
		require.Zero(t, held.After, "it may be over soon")
		c.requireNothingPaused(t)
		require.Less(t, c.longest(), maxWait)
		for _, left := range []time.Duration{time.Hour, time.Minute, 20 * time.Second} {
			for _, name := range []string{"pg-0", "pg-1", "pg-2"} {
				_, err, _ = c.runInstance(t, name, func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(left) })
				requireHeld(t, err, "its cluster is moving")
			}
		}
		require.Empty(t, c.evicted)
		time.Sleep(3 * time.Minute)
		c.streams = false
		_, err, _ = c.runInstance(t, "pg-0")
		requireHeld(t, err, "the old primary does not stream from pg-1 yet")
		c.streams = true
		_, err, _ = c.runInstance(t, "pg-0")
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, c.evicted)
		require.Equal(t, []string{"primary pg-1"}, c.order("primary"))
		require.Len(t, slices.DeleteFunc(slices.Clone(c.effects), func(e string) bool { return e != "primary pg-1" }), 1)
		require.False(t, c.early)
	})
}

// At the end of the drain's time, the primary moves to any healthy instance, though a pooler cannot hold its clients.
func TestRun_CNPGTimeRunsOut_MovesToAnyHealthyInstance(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCNPGWorld()
		c.leaving, c.grows = []string{"pg-0", "pg-1", "pg-2"}, 5000
		c.pooler, c.poolers["c"] = true, newWorldPooler()
		c.poolers["c"].noConsole = true
		_, err, _ := c.runInstance(t, "pg-0")
		requireHeld(t, err, "no member can become leader")
		result, err, _ := c.runInstance(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(time.Minute) })
		require.NoError(t, err)
		require.Equal(t, "last", result.Strategy)
		require.Contains(t, result.Reason, "moved to pg-1; clients of poolers that ask")
		require.Contains(t, result.Reason, "2 of 3 poolers held")
		requireOrder(t, c.effects, "primary pg-1", "resume a/app", "evict pg-0")
		require.False(t, c.early)
		c.requireNothingPaused(t)
	})
}

// The switchover is late at the end of the drain's time: the old primary stops by itself, and is not evicted meanwhile.
func TestRun_CNPGLastMoveIsLate_PrimaryIsNotEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCNPGWorld()
		c.takes = -1
		_, err, _ := c.runInstance(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(time.Minute) })
		requireHeld(t, err, "has begun and cannot be withdrawn")
		require.Empty(t, c.evicted)
		c.requireNothingPaused(t)
		_, err, _ = c.runInstance(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Second) })
		require.NoError(t, err, "its node ends now, and a stop is better than none")
		require.Equal(t, []string{"pg-0"}, c.evicted)
	})
}

func TestRun_CNPGKilledAfterEachEffect_NextResumesFirstAndFinishes(t *testing.T) {
	for kill := 1; ; kill++ {
		completed := false
		bubble.Test(t, func(t *testing.T) {
			c := newCNPGWorld()
			c.kill = kill
			_, err, alive := c.runInstance(t, "pg-0")
			if alive {
				require.NoError(t, err)
				completed = true
				return
			}
			time.Sleep(time.Second)
			for range 20 { // as the drain does: every 30 s
				if _, err, _ = c.runInstance(t, "pg-0"); err == nil {
					break
				}
				requireHeld(t, err, "")
				time.Sleep(30 * time.Second)
			}
			require.NoError(t, err, "killed after effect %d", kill)
			c.requireResumed(t)
			require.Equal(t, []string{"pg-0"}, c.evicted)
			require.False(t, c.early, "killed after effect %d: %v", kill, c.effects)
			require.Equal(t, "pg-1", c.leader)
			require.Equal(t, []string{"primary pg-1"}, slices.DeleteFunc(slices.Clone(c.effects), func(e string) bool { return e != "primary pg-1" }))
			require.LessOrEqual(t, c.longest(), maxWait, "killed after effect %d: %v", kill, c.effects)
		})
		if completed {
			require.Greater(t, kill, 8, "it was killed at each step")
			return
		}
	}
}

func TestSwitchover_CNPGByHand_RehearsesAndMoves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCNPGWorld()
		e, _ := c.view()
		result, err := e.Switchover(t.Context(), drain.Switchover{Namespace: "db", Cluster: "pg", Rehearse: true})
		require.NoError(t, err)
		require.Equal(t, "rehearsal", result.Strategy)
		require.Empty(t, c.order("primary"))
		_, err = e.Switchover(t.Context(), drain.Switchover{Namespace: "db", Cluster: "pg", Candidate: "pg-2"})
		require.NoError(t, err)
		require.Equal(t, "pg-2", c.leader)
		require.Empty(t, c.evicted)
		c.requireNothingPaused(t)
	})
}

// A warning that comes after the move is of no use.
func TestAdvise_CNPGPoolersThatAskForPasswords_AreNamedBeforeTheMove(t *testing.T) {
	const trap = "may get error 28P01 after the move: "
	for name, row := range map[string]struct {
		change func(*cnpgWorld)
		want   string
	}{
		"user lists":               {func(*cnpgWorld) {}, ""},
		"auth_query":               {func(c *cnpgWorld) { c.poolers["b"].authQuery = true }, trap + "db/pooler-b."},
		"a pooler of the operator": {func(c *cnpgWorld) { c.pooler, c.poolers["c"] = true, newWorldPooler() }, trap + "db/pooler-c."},
		"one without a console": {func(c *cnpgWorld) {
			c.pooler, c.poolers["c"] = true, newWorldPooler()
			c.poolers["c"].noConsole = true
		}, trap + "db/pooler-c."},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCNPGWorld()
				row.change(c)
				e, v := c.view()
				pod, err := v.Inspect(t.Context(), refOf("pg-0"))
				require.NoError(t, err)
				said := strings.Join(e.Advise(t.Context(), pod.Pod), " ")
				require.Contains(t, said, "The primary could move now")
				if row.want == "" {
					require.NotContains(t, said, "28P01")
					return
				}
				require.Contains(t, said, row.want)
				require.Contains(t, said, "Put the SCRAM verifier, not the password, into the Secret of each role.")
			})
		})
	}
}

// Patroni changes no passwords.
func TestAdvise_PatroniPoolersThatAskForPasswords_AreNotNamed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["a"].authQuery = true
		e, _ := w.escort()
		said := strings.Join(e.Advise(t.Context(), memberPod("pg-0", "").Pod), " ")
		require.Contains(t, said, "The primary could move now")
		require.NotContains(t, said, "28P01")
	})
}
