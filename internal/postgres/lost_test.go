package postgres

import (
	"context"
	"errors"
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

var testCluster = clusterLease(Identity{Namespace: "db", Cluster: "pg"})

// seize gives a Lease to another invocation, as if it had expired. Change is what that one does about it at once.
func (w *world) seize(name string, change func(l *worldLease)) *incarnation {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	other := &incarnation{world: w, name: "quiesce-other"}
	w.leases[name].holder = other
	if change != nil {
		change(w.leases[name])
	}
	return other
}

// when calls do as soon as an effect has happened.
func (w *world) when(effect string, do func()) {
	go func() {
		if w.await(func() bool { return slices.Contains(w.effects, effect) }) {
			do()
		}
	}()
}

// await returns when the condition holds, or reports false.
func (w *world) await(holds func() bool) bool {
	for range 600 {
		time.Sleep(100 * time.Millisecond)
		w.mutex.Lock()
		done := holds()
		w.mutex.Unlock()
		if done {
			return true
		}
	}
	return false
}

// busyWorld is one whose poolers' transactions take a second to end, so that something can happen while they are paused.
func busyWorld() *world {
	w := newWorld()
	for _, p := range w.poolers {
		p.busy = time.Second
	}
	return w
}

// Another drain has taken the cluster's Lease, and has the mark: it resumes, and this one asks for nothing.
func TestMove_LeaseTakenWhilePausing_NewHolderHasThePoolers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := busyWorld()
		w.when("pause a/app", func() { w.seize(testCluster, nil) })
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "was lost in the middle of the move: "+escort.ErrTaken.Error()+": quiesce-other")
		require.Empty(t, w.order("request", "resume", "evict"), "%v", w.effects)
		require.NotEmpty(t, w.poolers["a"].paused)
		require.NotEmpty(t, w.leases[testCluster].mark)
		require.Nil(t, w.records["pg-0"], "this drain has nothing to resume any more")

		w.leases[testCluster].holder = nil
		e, _ := w.escort()
		resumed, _, err := e.Resume(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"db/pg"}, resumed)
		w.requireResumed(t)
	})
}

// The new holder resumes what the mark names before the last PAUSE and setting of this move have come. Nobody else knows of those.
func TestMove_PauseComesAfterTheNewHolderHasResumed_IsUndone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := busyWorld()
		w.when("pause a/app", func() {
			w.seize(testCluster, nil)
			time.Sleep(3 * time.Second)
			w.mutex.Lock()
			defer w.mutex.Unlock()
			delete(w.poolers["a"].paused, "app")
			w.poolers["a"].retry = "15"
			w.leases[testCluster].mark, w.leases[testCluster].holder = "", nil
		})
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "was lost in the middle of the move")
		require.Empty(t, w.order("request", "evict"), "%v", w.effects)
		w.requireNothingPaused(t)
	})
}

// Nobody else knows of the pause: the new holder has no mark, or there is none, because a person has deleted the Lease.
func TestMove_LeaseLostWithTheMark_PoolersAreResumed(t *testing.T) {
	for name, change := range map[string]func(*worldLease){
		"taken": func(l *worldLease) { l.mark = "" }, "deleted": func(l *worldLease) { l.mark, l.holder = "", nil },
		"its taker died": func(l *worldLease) { l.holder.dead = true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := busyWorld()
				w.when("pause a/app", func() { w.seize(testCluster, change) })
				_, err, _ := w.run(t, "pg-0")
				requireHeld(t, err, "was lost in the middle of the move")
				require.Empty(t, w.order("request", "evict"), "%v", w.effects)
				require.Empty(t, w.poolers["a"].paused)
				require.Empty(t, w.poolers["b"].paused)
			})
		})
	}
}

// The Lease is lost when the request is out. The request is withdrawn, which the new holder may have looked for too early. It resumes.
func TestMove_LeaseTakenAfterTheRequest_OnlyTheRequestIsUndone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "frozen"
		taken := make(chan *incarnation, 1)
		w.when("request pg-0 to pg-1", func() { taken <- w.seize(testCluster, nil) })
		began := time.Now()
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "quiesce-other")
		require.Equal(t, []string{"withdraw"}, w.order("withdraw", "resume", "evict"), "%v", w.effects)
		require.Less(t, time.Since(began), 20*time.Second+reclaimTime, "it does not wait for the end of the hold")

		e, _ := w.escort()
		other := <-taken
		_, err = e.clearMark(t.Context(), other, &heldLease{other, w.leases[testCluster]})
		require.NoError(t, err)
		w.leases[testCluster].holder = nil
		w.requireResumed(t)
	})
}

// The leader changed, and the Lease is another's. A later run verifies the move, and evicts.
func TestMove_LeaseTakenAfterTheMove_RecordSaysThatItMoved(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.when("request pg-0 to pg-1", func() {
			if w.await(func() bool { return w.leader == "pg-1" }) {
				w.seize(testCluster, nil)
			}
		})
		result, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "quiesce-other")
		require.Contains(t, result.Reason, "moved to pg-1")
		require.Empty(t, w.order("resume", "evict"), "%v", w.effects)
		record, err := readMark(string(w.records["pg-0"]))
		require.NoError(t, err)
		require.True(t, record.Moved)
		require.Empty(t, record.Poolers)
	})
}

// The Lease of a group of poolers is lost: another drain stops one of them. The cluster's is held still, so this move resumes.
func TestMove_PoolersLeaseTaken_NothingIsRequested(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := busyWorld()
		w.when("pause a/app", func() {
			for name := range w.leases {
				if name != testCluster {
					w.seize(name, nil)
				}
			}
		})
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "Lease quiesce-pooler-")
		requireHeld(t, err, "quiesce-other")
		require.Empty(t, w.order("request", "evict"), "%v", w.effects)
		w.requireNothingPaused(t)
	})
}

// trap panics where a step of the world's answers says so.
type trap struct {
	*incarnation
	step string
}

func (p trap) spring(step string) {
	if p.step == step {
		panic("a bug at " + step)
	}
}

func (p trap) Open(ctx context.Context, pod escort.Pod) (Console, error) {
	p.spring("open " + pod.Name)
	c, err := p.incarnation.Open(ctx, pod)
	if err != nil {
		return nil, err
	}
	return trapConsole{c, p, pod.Name}, nil
}

func (p trap) Live(ctx context.Context, i Identity, m Member) (LiveState, error) {
	p.spring("live " + m.Name)
	return p.incarnation.Live(ctx, i, m)
}

func (p trap) Services(ctx context.Context, namespace string) ([]escort.Service, error) {
	if len(p.order("request")) > 0 {
		p.spring("follow")
	}
	return p.incarnation.Services(ctx, namespace)
}

func (p trap) Switchover(ctx context.Context, leader Member, candidate string) error {
	p.spring("switchover")
	return p.incarnation.Switchover(ctx, leader, candidate)
}

type trapConsole struct {
	Console
	trap trap
	name string
}

func (c trapConsole) Look(ctx context.Context) (PoolerState, error) {
	c.trap.spring("look " + c.name)
	return c.Console.Look(ctx)
}

func (c trapConsole) Pause(ctx context.Context, database string) error {
	c.trap.spring("pause " + c.name)
	return c.Console.Pause(ctx, database)
}

func (c trapConsole) Reconnect(ctx context.Context, database string) error {
	c.trap.spring("reconnect " + c.name)
	return c.Console.Reconnect(ctx, database)
}

// A panic in a goroutine of the move would end the process, with poolers paused.
func TestMove_Panic_IsAnErrorAndNothingStaysPaused(t *testing.T) {
	for step, c := range map[string]struct{ rest, moves bool }{
		"open pooler-b": {moves: true}, "look pooler-b": {moves: true}, "live pg-2": {moves: true}, "reconnect pooler-b": {moves: true},
		"pause pooler-b": {}, "follow": {moves: true}, "switchover": {rest: true},
	} {
		t.Run(step, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				e, i := w.escort()
				p := trap{i, step}
				e.Consoles = p
				e.Connect = func(context.Context) (Cluster, error) { return p, nil }
				e.Clusters = func(Cluster) Clusters { return p }
				if c.rest {
					e.Asker, e.ConnectVia = p, "podIP"
				}
				result, err, _ := w.runAs(t, e, i, "pg-0")
				w.requireNothingPaused(t)
				if c.moves {
					require.NoError(t, err)
					require.Contains(t, result.Reason, "moved to pg-1")
					return
				}
				requireHeld(t, err, "panic: a bug at "+step)
				require.Empty(t, w.evicted)
			})
		})
	}
}

func TestResume_Panic_IsAnErrorOfItsPooler(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Consoles = trap{i, "open pooler-a"}
		left := resumer{i, e.Consoles, e.log(), nil}.all(t.Context(), []markedPooler{
			{Ref: refOf("pooler-a"), Databases: []string{"app"}}, {Ref: refOf("pooler-b"), Databases: []string{"app"}},
		}, nil)
		require.Len(t, left, 1)
		require.Equal(t, "pooler-a", left[0].Name)
	})
}

// Several clusters have paused poolers, and the consoles of one hang. The others' clients do not wait for it.
func TestResume_ConsoleHangs_OtherClustersDoNotWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		began := time.Now()
		w.leases = map[string]*worldLease{}
		resumedAt := map[string]time.Time{} // under the mutex
		for n := range clustersAtOnce {
			name := fmt.Sprintf("p%d", n)
			w.poolers[name] = newWorldPooler()
			w.poolers[name].paused["app"] = began
			w.poolers[name].deaf, w.poolers[name].deafFor = n == 0, time.Hour
			m := mark{Namespace: "db", Cluster: name, Poolers: []markedPooler{{Ref: refOf("pooler-" + name), Databases: []string{"app"}}}}
			w.leases[clusterLease(Identity{Namespace: "db", Cluster: name})] = &worldLease{mark: m.text()}
			if n > 0 {
				w.when("resume "+name+"/app", func() {
					w.mutex.Lock()
					defer w.mutex.Unlock()
					resumedAt[name] = time.Now()
				})
			}
		}
		e, _ := w.escort()
		resumed, _, err := e.Resume(t.Context())
		require.ErrorContains(t, err, "still paused: db/pooler-p0")
		require.Len(t, resumed, clustersAtOnce-1)
		time.Sleep(time.Second)
		w.mutex.Lock()
		defer w.mutex.Unlock()
		for n := 1; n < clustersAtOnce; n++ {
			require.Less(t, resumedAt[fmt.Sprintf("p%d", n)].Sub(began), time.Second)
		}
	})
}

// A mark that does not fit is noticed before anything is paused. The names of pods may be long.
func TestMove_ManyPoolers_HeldIfTheyCannotBeRecorded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		delete(w.poolers, "a")
		delete(w.poolers, "b")
		for n := range maxPoolers {
			w.poolers[fmt.Sprintf("pgbouncer-7d9f8c6b5d-%03d", n)] = newWorldPooler()
		}
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err, "usual names fit")
		require.Contains(t, result.Reason, "100 of 100 poolers held")
		require.LessOrEqual(t, len(w.largest), escort.MaxRecord)
		w.requireNothingPaused(t)

		w = newWorld()
		for n := range maxPoolers - 2 {
			w.poolers[strings.Repeat("x", 200)+fmt.Sprintf("%03d", n)] = newWorldPooler()
		}
		_, err, _ = w.run(t, "pg-0")
		requireHeld(t, err, "its 100 poolers cannot be recorded before they are paused")
		require.Empty(t, w.effects)
		held, _ := errors.AsType[*drain.Held](err)
		require.Zero(t, held.After, "no client waited")
	})
}

// A plan is made by anybody who may look. It changes nothing, so that it may be made at any time.
func TestAdvise_Poolers_OnlyShow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, _ := w.escort()
		lines := e.Advise(t.Context(), memberPod("pg-0", "").Pod)
		require.Contains(t, strings.Join(lines, "\n"), "2 poolers in front of it can hold clients")
		require.Zero(t, w.commands)
		require.Empty(t, w.effects)
	})
}

func TestMove_LoginMayOnlyLook_PoolerIsNotPaused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["b"].readOnly = true
		_, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Equal(t, []string{"pause a/app"}, w.order("pause"))
	})
}

// The leader's volumes matter before the move. What waits for the old primary afterwards looks again and again, and not at them.
func TestRun_OldPrimaryDoesNotStream_VolumesAreNotLookedAtAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.streams = false
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "the old primary does not stream")
		require.Positive(t, w.volumeLooks)
		require.LessOrEqual(t, w.volumeLooks, 3, "once for the report, and twice by the move")
	})
}
