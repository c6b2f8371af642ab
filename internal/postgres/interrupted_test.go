package postgres

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

func markedDatabase(pooler string, databases ...string) markedPooler {
	return markedPooler{Ref: refOf("pooler-" + pooler), Databases: databases, Retry: "15"}
}

// interruptedMark returns the mark of a move that has begun now.
func interruptedMark(poolers ...markedPooler) mark {
	return mark{Namespace: "db", Cluster: "pg", Since: time.Now(), Leader: "pg-0", Candidate: "pg-1", Kind: "endpoints", Object: "pg-failover", Poolers: poolers}
}

// pauseLate is what a command of an interrupted move does that comes late.
func (w *world) pauseLate(pooler string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.poolers[pooler].paused["app"], w.poolers[pooler].retry = time.Now(), loginRetry
}

// Found by the simulation, seeds 20298, 136507 and 145501: a move stood still until a sweep had taken its Lease and resumed its poolers.
// Then it paused one, and was killed. Nobody knew of that.
func TestResume_PauseOfAnInterruptedMoveComesLate_NextSweepResumes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app")).text()}
		e, _ := w.escort()
		for n, after := range []time.Duration{0, time.Minute, lateTime - time.Minute - time.Second} {
			time.Sleep(after)
			w.pauseLate("a")
			resumed, _, err := e.Resume(t.Context())
			require.NoError(t, err)
			require.Equal(t, n == 0, len(resumed) > 0, "it is said once")
			require.Empty(t, w.poolers["a"].paused)
			require.Equal(t, "15", w.poolers["a"].retry)
			require.NotEmpty(t, w.leases[testCluster].mark)
		}
		require.Equal(t, 1, w.asked, "owners are told once")
		time.Sleep(time.Second)
		_, _, err := e.Resume(t.Context())
		require.NoError(t, err)
		w.requireNothingPaused(t)
		w.pauseLate("a")
		_, _, err = e.Resume(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, w.poolers["a"].paused, "a pause after that is somebody else's")
	})
}

// Somebody asks for the same switchover after an interrupted move is undone. That is theirs.
func TestResume_OnceMore_WithdrawsNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app")).text()}
		e, _ := w.escort()
		for range 2 {
			w.request = map[string]string{"leader": "pg-0", "member": "pg-1"}
			_, _, err := e.Resume(t.Context())
			require.NoError(t, err)
		}
		require.NotEmpty(t, w.request)
		require.Equal(t, []string{"withdraw"}, slices.DeleteFunc(slices.Clone(w.effects), func(effect string) bool { return effect != "withdraw" }))
	})
}

// A pooler that does not answer stays on the mark for as long as it may be paused.
func TestResume_PoolerDoesNotAnswer_MarkStaysUntilItDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app"), markedDatabase("b", "app")).text()}
		w.poolers["b"].noConsole = true
		e, _ := w.escort()
		for _, want := range []int{2, 1} {
			_, _, err := e.Resume(t.Context())
			require.ErrorContains(t, err, "still paused: db/pooler-b")
			m, err := readMark(w.leases[testCluster].mark)
			require.NoError(t, err)
			require.False(t, m.Resumed)
			require.Len(t, m.Poolers, want, "pooler a is resumed once more until its last command cannot come")
			time.Sleep(lateTime)
		}
		w.poolers["b"].noConsole = false
		resumed, _, err := e.Resume(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"db/pg"}, resumed)
		w.requireNothingPaused(t)
	})
}

// A pooler that was resumed, and whose node has gone since, does not hold its cluster. It is asked until it answers, or its pod is gone.
func TestRun_ResumedPoolerDoesNotAnswerAnyMore_PrimaryMoves(t *testing.T) {
	for name, after := range map[string]time.Duration{"at once": 0, "later": lateTime} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.poolers["c"] = newWorldPooler()
				w.poolers["c"].databases = []PoolerDatabase{{Name: "app", Host: "elsewhere"}}
				m := interruptedMark(markedDatabase("a", "app"), markedDatabase("c", "app"))
				m.interrupt()
				m.Resumed = true
				w.leases[testCluster] = &worldLease{mark: m.text()}
				w.poolers["c"].noConsole = true
				time.Sleep(after)
				e, _ := w.escort()
				resumed, left, err := e.Resume(t.Context())
				require.NoError(t, err)
				require.Empty(t, resumed)
				require.True(t, left, "another phase may have a login for it")
				require.True(t, IsResumed(w.leases[testCluster].mark))
				_, err, _ = w.run(t, "pg-0")
				require.NoError(t, err)
				w.poolers["c"].gone = true
				time.Sleep(lateTime)
				_, _, err = e.Resume(t.Context())
				require.NoError(t, err)
				require.Empty(t, w.leases[testCluster].mark)
			})
		})
	}
}

// Time runs out for a primary whose last move was interrupted, and one of that move's poolers does not answer. The primary moves under the pause
// of the others all the same, and the pooler stays on the mark until it answers.
func TestRun_LastMoveAfterAnInterruptedOne_PoolerDoesNotAnswer_MovesUnderAPause(t *testing.T) {
	for name, after := range map[string]time.Duration{"at once": 0, "later": lateTime} {
		for _, behavior := range []string{"", "refused"} {
			t.Run(name+" "+behavior, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					w := newWorld()
					w.behavior = behavior
					w.poolers["c"] = newWorldPooler()
					w.poolers["c"].databases = []PoolerDatabase{{Name: "app", Host: "elsewhere"}}
					w.poolers["c"].noConsole = true
					w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app"), markedDatabase("c", "app")).text()}
					time.Sleep(after)
					w.pauseLate("c")
					result, err, _ := w.run(t, "pg-0", lastCall)
					require.NoError(t, err)
					require.Contains(t, result.Reason, "moved to pg-1")
					require.Contains(t, result.Reason, "poolers may still be paused: db/pooler-c")
					asked := "request pg-0 to pg-1"
					if behavior != "" {
						asked = "evict pg-0"
					}
					at := slices.Index(w.effects, asked)
					require.Greater(t, at, 2, "%v", w.effects)
					require.Contains(t, w.effects[at-2:at], "pause a/app")
					require.Contains(t, w.effects[at:], "resume a/app")
					m, err := readMark(w.leases[testCluster].mark)
					require.NoError(t, err)
					require.False(t, m.Resumed)

					w.poolers["c"].noConsole = false
					e, _ := w.escort()
					_, left, err := e.Resume(t.Context())
					require.NoError(t, err)
					require.False(t, left)
					w.requireResumed(t)
				})
			})
		}
	}
}

// A person asks whether clients still wait.
func TestPaused_EachMark_NamesClustersThatMayBePaused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		m := interruptedMark(markedDatabase("a", "app"))
		resumed := m
		resumed.Resumed = true
		for name, text := range map[string]string{"1": m.text(), "2": resumed.text(), "3": "", "4": "{"} {
			w.leases[LeasePrefix+name] = &worldLease{mark: text, holder: &incarnation{world: w}}
		}
		w.leases["i-1"] = &worldLease{mark: m.text()}
		e, _ := w.escort()
		clusters, err := e.Paused(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"db/pg", LeasePrefix + "4"}, clusters)

		e, i := w.escort()
		i.unmarked = true
		_, err = e.Paused(t.Context())
		require.ErrorContains(t, err, "look for paused poolers: forbidden")
	})
}

// The next move takes over what the interrupted one may still pause: also a pooler that is not in front any more.
func TestRun_AfterAnInterruptedMove_ItsPoolersAreResumedOnceMore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["c"] = newWorldPooler()
		w.poolers["c"].databases = []PoolerDatabase{{Name: "app", Host: "elsewhere"}}
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app"), markedDatabase("c", "app")).text()}
		w.when("mark true", func() { w.locked(0, func() { w.poolers["a"].retry = loginRetry }) })
		w.poolers["b"].busy = time.Second
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "2 of 2 poolers held")
		require.Equal(t, "15", w.poolers["a"].retry)
		m, err := readMark(w.leases[testCluster].mark)
		require.NoError(t, err)
		require.True(t, m.Resumed)
		require.Len(t, m.Poolers, 3)
		w.pauseLate("c")
		e, _ := w.escort()
		_, _, err = e.Resume(t.Context())
		require.NoError(t, err)
		w.requireResumed(t)
	})
}

// No pooler is in front any more. Those of the interrupted move stay on the mark all the same, also if this one loses its Lease.
func TestSwitchover_AfterAnInterruptedMove_NoPoolersOfItsOwn_MarkStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		for _, p := range w.poolers {
			p.databases = []PoolerDatabase{{Name: "app", Host: "elsewhere"}}
		}
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app")).text()}
		e, i := w.escort()
		result, err := e.Switchover(t.Context(), drain.Switchover{Namespace: "db", Cluster: "pg"})
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
		m, err := readMark(w.leases[testCluster].mark)
		require.NoError(t, err)
		require.Len(t, m.Poolers, 1)

		lost := e.moveOf(i, i, Facts{Identity: Identity{Namespace: "db", Cluster: "pg"}})
		lost.paths = &paths{}
		lost.mark = mark{Namespace: "db", Cluster: "pg", Since: time.Now(), Again: time.Now().Add(time.Minute), Late: []markedPooler{markedDatabase("a", "app")}}
		w.leases[testCluster].mark = lost.mark.text()
		lost.reclaim(t.Context())
		m, err = readMark(w.leases[testCluster].mark)
		require.NoError(t, err)
		require.True(t, m.Resumed)
		require.Len(t, m.Poolers, 1)
	})
}

func TestMark_Carry_AddsPoolersDatabasesAndFormerSettings(t *testing.T) {
	again := time.Now().Add(time.Minute)
	own := func(retry string, databases ...string) markedPooler {
		return markedPooler{Ref: refOf("pooler-a"), Databases: databases, Retry: retry}
	}
	for name, c := range map[string]struct {
		own, interrupted, want, late []markedPooler
	}{
		"same":             {own: []markedPooler{own("15", "app")}, interrupted: []markedPooler{own("20", "app")}, want: []markedPooler{own("15", "app")}},
		"set by that move": {own: []markedPooler{own("1", "app")}, interrupted: []markedPooler{own("20", "app")}, want: []markedPooler{own("20", "app")}},
		"never changed":    {own: []markedPooler{own("1", "app")}, interrupted: []markedPooler{own("", "app")}, want: []markedPooler{own("1", "app")}},
		"more databases":   {own: []markedPooler{own("15", "app")}, interrupted: []markedPooler{own("15", "app", "more")}, want: []markedPooler{own("15", "app", "more")}},
		"another pooler": {
			own: []markedPooler{own("15", "app")}, interrupted: []markedPooler{markedDatabase("b", "app")}, want: []markedPooler{own("15", "app")},
			late: []markedPooler{markedDatabase("b", "app")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := mark{Poolers: c.own}
			m.carry(&mark{Poolers: c.interrupted, Again: again})
			require.Equal(t, c.want, m.Poolers)
			require.Equal(t, c.late, m.Late)
			require.Equal(t, again, m.Again)
		})
	}
}

// The poolers of both moves do not fit on one mark. The next move waits until those of the first cannot be paused any more.
func TestRun_AfterAnInterruptedMoveOfManyPoolers_HeldUntilItIsOver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		var others []markedPooler
		for n := range maxPoolers {
			others = append(others, markedDatabase(fmt.Sprintf("gone-%d", n), "app"))
		}
		w.leases[testCluster] = &worldLease{mark: interruptedMark(others...).text()}
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "its poolers cannot be recorded before 2000-01-01T00:16:00Z with those of an interrupted move: they are too many")
		require.Empty(t, w.order("pause"))
		time.Sleep(lateTime)
		_, err, _ = w.run(t, "pg-0")
		require.NoError(t, err)
		w.requireNothingPaused(t)
	})
}

// The record of a drain outlives the mark, which a person may have deleted with its Lease.
func TestRun_RecordWithoutAMark_ResumesUnlessAnotherMoves(t *testing.T) {
	for name, c := range map[string]struct {
		lease   func(w *world) *worldLease
		resumed bool
		reason  string
	}{
		"no Lease":    {lease: func(*world) *worldLease { return &worldLease{} }, resumed: true},
		"same mark":   {lease: func(w *world) *worldLease { return &worldLease{mark: string(w.records["pg-0"])} }, resumed: true},
		"dead holder": {lease: func(w *world) *worldLease { return dyingLease(w, string(w.records["pg-0"])) }, resumed: true},
		"holder":      {lease: func(w *world) *worldLease { return &worldLease{holder: &incarnation{world: w}} }, reason: "another process holds the Lease of its cluster, and poolers may still be paused: db/pooler-a"},
		// Found by the simulation, seed 199855: the new holder had resumed what the mark names, and was about to pause it for its own move.
		"taken by a new holder": {lease: func(w *world) *worldLease {
			return &worldLease{holder: &incarnation{world: w}, since: time.Now().Add(time.Second), mark: string(w.records["pg-0"])}
		}},
		"resumed by its holder": {lease: func(w *world) *worldLease { return &worldLease{holder: &incarnation{world: w}, mark: resumedMark(w)} }},
		"resumed, and free":     {lease: func(w *world) *worldLease { return &worldLease{mark: resumedMark(w)} }, resumed: true},
		"another's":             {lease: func(w *world) *worldLease { return &worldLease{holder: &incarnation{world: w}, mark: laterMark()} }},
		"another's old":         {lease: func(*world) *worldLease { return &worldLease{mark: laterMark()} }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.pauseLate("a")
				w.records["pg-0"] = []byte(interruptedMark(markedDatabase("a", "app")).text())
				w.leases[testCluster] = c.lease(w)
				e, i := w.escort()
				r := e.begin(requestOf(w, i, "pg-0"))
				require.NoError(t, r.connect(t.Context()))
				err := r.recover(t.Context())
				if c.reason == "" {
					require.NoError(t, err)
					require.Empty(t, r.record.Poolers)
				} else {
					requireHeld(t, err, c.reason)
					require.NotEmpty(t, r.record.Poolers)
				}
				require.Equal(t, c.resumed, len(w.poolers["a"].paused) == 0)
			})
		})
	}
}

// The Lease of the dead invocation is taken while its drain's next run resumes: from then on the new holder decides.
func TestRun_LeaseTakenWhileARecordIsResumed_PoolerIsLeft(t *testing.T) {
	for name, taken := range map[string]bool{"taken": true, "not taken": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.pauseLate("a")
				w.poolers["a"].deaf, w.poolers["a"].deafFor = true, 10*time.Second
				w.records["pg-0"] = []byte(interruptedMark(markedDatabase("a", "app")).text())
				w.leases[testCluster] = dyingLease(w, string(w.records["pg-0"]))
				e, i := w.escort()
				r := e.begin(requestOf(w, i, "pg-0"))
				require.NoError(t, r.connect(t.Context()))
				if taken {
					go func() {
						time.Sleep(5 * time.Second)
						w.seize(testCluster, func(l *worldLease) { l.mark, l.since = laterMark(), time.Now() })
					}()
				}
				require.NoError(t, r.recover(t.Context()))
				require.Equal(t, taken, len(w.poolers["a"].paused) > 0)
			})
		})
	}
}

func resumedMark(w *world) string {
	m, _ := readMark(string(w.records["pg-0"]))
	m.Resumed = true
	return m.text()
}

func laterMark() string {
	m := interruptedMark(markedDatabase("a", "app"))
	m.Since = m.Since.Add(time.Second)
	return m.text()
}

func dyingLease(w *world, text string) *worldLease {
	return &worldLease{mark: text, holder: &incarnation{world: w, dead: true}, until: time.Now().Add(time.Minute)}
}

// A move that stood still knows only that it has not renewed its Lease. The mark on it says whether another moves the primary now.
func TestMove_StoodStill_LeavesThePoolersOfAnotherMove(t *testing.T) {
	for name, left := range map[string]bool{"another's mark": true, "its own mark": false, "another's mark that nobody holds": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := busyWorld()
				e, i := w.escort()
				w.when("pause a/app", func() {
					w.seize(testCluster, func(l *worldLease) {
						i.unsure = time.Now().Add(time.Hour)
						if name != "its own mark" {
							l.mark = laterMark()
						}
						if strings.HasSuffix(name, "holds") {
							l.expired = true
						}
					})
				})
				_, err, _ := w.runAs(t, e, i, "pg-0")
				requireHeld(t, err, "was lost in the middle of the move: it could not be renewed in time")
				require.Equal(t, left, len(w.order("resume")) == 0, "%v", w.effects)
			})
		})
	}
}

// Found by the simulation, seed 158205: a move resumed a pooler that did not answer, and stood still. When it went on, another move had
// paused that pooler, and the next attempt let its clients go.
func TestMove_LeaseTakenWhileItResumes_PoolerIsLeftToTheNewHolder(t *testing.T) {
	for name, taken := range map[string]bool{"taken": true, "not taken": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.poolers["a"].deaf, w.poolers["a"].deafFor = true, 10*time.Second
				if taken {
					w.when("resume b/app", func() { w.seize(testCluster, func(l *worldLease) { l.mark = laterMark() }) })
				}
				_, err, _ := w.run(t, "pg-0")
				if taken {
					requireHeld(t, err, "quiesce-other")
				}
				require.Equal(t, taken, len(w.order("resume a")) == 0, "%v", w.effects)
			})
		})
	}
}

// Another move has taken the Lease, and is over. The mark that it keeps has these poolers, and nobody moves anything.
func TestMove_LeaseTakenByAMoveThatIsOver_ResumesItsOwnAtOnce(t *testing.T) {
	for name, over := range map[string]bool{"over": true, "interrupted": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := busyWorld()
				kept := ""
				w.when("pause a/app", func() {
					w.seize(testCluster, func(l *worldLease) {
						m := interruptedMark(markedDatabase("a", "app"), markedDatabase("b", "app"))
						m.Since, m.Resumed, m.Again = m.Since.Add(time.Second), over, time.Now().Add(time.Minute)
						kept, l.mark = m.text(), m.text()
					})
					time.Sleep(3 * time.Second)
					w.locked(0, func() { w.leases[testCluster].holder = nil })
				})
				_, err, _ := w.run(t, "pg-0")
				requireHeld(t, err, "was lost in the middle of the move")
				require.Equal(t, over, len(w.poolers["a"].paused) == 0)
				require.Equal(t, kept, w.leases[testCluster].mark, "it is not this move's")
			})
		})
	}
}

// The new holder has withdrawn what it found, and has asked for the same again. That request is its own.
func TestMove_LeaseTakenAfterTheRequest_NewRequestStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "frozen"
		w.when("request pg-0 to pg-1", func() {
			w.seize(testCluster, nil)
			w.locked(0, func() { w.version += 2 })
		})
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "quiesce-other")
		require.Empty(t, w.order("withdraw"))
		require.NotEmpty(t, w.request)
	})
}

// Found by the simulation, seed 6934: the Lease was lost while the cluster was read, and another moved the primary.
func TestRun_ReplicaWhoseLeaseIsLost_Held(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app")).text()}
		w.when("mark true", func() { w.seize(testCluster, nil) })
		e, i := w.escort()
		i.pace = 100 * time.Millisecond
		_, err, _ := w.runAs(t, e, i, "pg-1")
		requireHeld(t, err, "the Lease of its cluster was lost: "+escort.ErrTaken.Error())
		require.Empty(t, w.evicted)
	})
}

func TestIsResumed_ResumedMark_True(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "not a mark": false, interruptedMark(markedDatabase("a", "app")).text(): false,
		mark{Resumed: true, Poolers: []markedPooler{markedDatabase("a", "app")}}.text(): true,
	} {
		require.Equal(t, want, IsResumed(text), text)
	}
}

// What an earlier run has paused cannot be resumed yet. The record stays, and so does the primary.
func TestRun_RecordedPoolerDoesNotAnswer_HeldAndRecordStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.pauseLate("a")
		w.poolers["a"].noConsole = true
		record := interruptedMark(markedDatabase("a", "app")).text()
		w.records["pg-0"], w.leases[testCluster] = []byte(record), &worldLease{mark: record}
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "poolers may still be paused: db/pooler-a")
		require.JSONEq(t, record, string(w.records["pg-0"]))
		require.Empty(t, w.evicted)
	})
}

// Somebody has taken the Lease, and nobody knows whether that is another move. Its poolers are left alone.
func TestMove_LeaseTakenAndMarksUnreadable_PoolersAreLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := busyWorld()
		w.when("pause a/app", func() {
			w.seize(testCluster, func(*worldLease) { w.unmarked = true })
		})
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "was lost in the middle of the move")
		require.Empty(t, w.order("resume"))
	})
}

// A console that hangs costs an attempt one step, however many databases there are.
func TestResume_ConsoleHangs_AttemptEndsAtTheFirstDatabase(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.pauseLate("a")
		w.poolers["a"].deaf = true
		for _, name := range []string{"more", "most"} {
			w.poolers["a"].paused[name] = time.Now()
		}
		e, i := w.escort()
		began := time.Now()
		gone, err := resumer{i, i, e.log(), nil}.try(t.Context(), markedDatabase("a", "app", "more", "most"), nil)
		require.ErrorIs(t, err, errStep)
		require.False(t, gone)
		require.Less(t, time.Since(began), 2*resumeStep)
	})
}

// Another attempt would have no login either. The next phase may have one, and clients wait.
func TestResume_NoLoginForThePooler_EndsAtOnce(t *testing.T) {
	for _, failure := range []error{escort.ErrNoLogin, fmt.Errorf("open: %w", escort.ErrOtherNamespace)} {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld()
			w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", "app"), markedDatabase("b", "app")).text()}
			w.pauseLate("a")
			w.pauseLate("b")
			e, i := w.escort()
			e.Consoles = failingConsoles{i, map[string]int{}, func(pooler string, _ int) error {
				if pooler == "pooler-b" {
					return failure
				}
				return nil
			}}
			began := time.Now()
			_, left, err := e.Resume(t.Context())
			require.ErrorContains(t, err, "still paused: db/pooler-b")
			require.True(t, left)
			require.Less(t, time.Since(began), resumeInterval)
			require.Empty(t, w.poolers["a"].paused)
		})
	}
}
