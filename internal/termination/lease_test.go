package termination

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// An unreachable cluster must not let the hook run out, nor keep the instance for ever.
func TestUnreachableCluster_AtDeadline_OnFailureDecides(t *testing.T) {
	for _, step := range []string{"connect", "find", "watch"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.failAlways(step, errors.New("no route to host"))
			h := env.handler()
			report, err := invoke(t, h)
			require.ErrorContains(t, err, "no route to host")
			require.Equal(t, StatusFailed, report.Status)
			require.Len(t, env.heartbeats, 1, "the next try has the hook's whole timeout to come")
			require.Empty(t, env.completed)

			late, now := event, time.Now()
			late.Began = now.Add(-time.Hour)
			_, err = deliver(t, h, Record{Termination: &late, FirstReceived: now})
			require.ErrorContains(t, err, "no route to host", "it has just come, and has two minutes")
			_, err = deliver(t, h, Record{Termination: &late})
			require.ErrorContains(t, err, "no route to host", "only the event says that it is old")
			require.Empty(t, env.completed)
			env = newTestEnv() // what an earlier invocation closed is not older than its receipt
			env.failAlways(step, errors.New("no route to host"))
			report, err = deliver(t, env.handler(), Record{Termination: &late, FirstReceived: now.Add(-time.Hour)})
			require.NoError(t, err)
			require.Equal(t, StatusFailed, report.Status)
			require.Contains(t, report.Reason, "no route to host")
			require.Equal(t, []Result{Abandon}, env.completed)
		})
	}
}

// A Lease outlives the drain as far as pods do on which something may have to be undone.
func TestReleaseLease_PodsLeft_DecideWhatIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testEnv)
		wait   time.Duration // before the event is handled
		want   Keep
	}{
		"every pod is gone":               {func(*testEnv) {}, 0, KeepClosed},
		"a pod remains at the deadline":   {func(e *testEnv) { e.node.Add(web("stuck"), 2*time.Hour) }, 0, KeepRecords},
		"no pod was seen until the end":   {func(e *testEnv) { e.failAlways("watch", errors.New("forbidden")) }, time.Hour, KeepRecords},
		"the next invocation is to drain": {func(e *testEnv) { e.failAlways("watch", errors.New("forbidden")) }, 0, KeepAll},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			c.change(env)
			late := event
			late.Began = time.Now()
			time.Sleep(c.wait)
			h := env.handler()
			h.Policy.Force = false
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
			defer cancel()
			h.Parse = func([]byte) Delivery {
				return Delivery{Records: []Record{{Termination: &late, FirstReceived: late.Began}}}
			}
			_, _ = h.Invoke(ctx, nil)
			require.Equal(t, []Keep{c.want}, env.kept, name)
		})
	}
}

// A crashed escort left a pause, and the pods could not be listed again until the deadline. Retained, the instance runs on with its
// pods, and only the record says what is paused.
func TestSweep_RetainedAfterACrash_UndoesTheEscort(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.state = "Terminating:Wait"
		require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		env.node.Add(web("paused"), 0)
		heal := env.failAlways("watch", errors.New("forbidden"))
		h, _ := env.withQueue()
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undoRecorder{env: env}}}
		late := event
		late.Began = time.Now()
		time.Sleep(time.Hour)
		_, err := deliver(t, h, Record{Termination: &late, FirstReceived: late.Began})
		require.NoError(t, err)
		require.Equal(t, []Result{Abandon}, env.completed)
		require.Equal(t, []Keep{KeepRecords}, env.kept)

		heal()
		env.state = "Terminating:Retained"
		sweepOnce(t, h)
		require.Contains(t, env.effects(), "undo paused")
	})
}

// The node was opened, and the console of the pooler did not answer then. The pooler stayed paused until a person resumed it.
func TestSweep_EscortNotUndoneWhenTheNodeWasOpened_IsTriedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		env.node.Add(web("paused"), 0)
		h, _ := env.withQueue()
		undo := savingUndoer{undoRecorder{env: env}, errors.New("console did not answer")}
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undo}}
		sweepOnce(t, h)
		require.Empty(t, env.closed, "the node is open")

		undo.failure = nil
		h.Drainer.Phases[0].Escort = undo
		require.Empty(t, sweepOnce(t, h).Errors)
		require.Contains(t, env.effects(), "undo paused")
		before := len(env.effects())
		sweepOnce(t, h)
		require.Len(t, env.effects(), before, "once")
	})
}

// Nothing can be undone of a pod that is gone. Its record would make each sweep look for the instance's node.
func TestSweep_RecordOfAPodThatIsGone_IsRemovedOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.closed = nil
		require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-gone", `{"phase":"workloads","escort":{"paused":true}}`))
		env.node.Add(web("web"), 0)
		h, _ := env.withQueue()
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undoRecorder{env: env}}}
		require.Empty(t, sweepOnce(t, h).Errors)
		require.Empty(t, env.records.Keys(drain.EscortRecord))
		before := len(env.effects())
		sweepOnce(t, h)
		require.Len(t, env.effects(), before)
	})
}

// Two drains of one node would tell pods twice to stop. The one whose Lease is another's stops at once, and completes nothing.
func TestLease_TakenOver_NothingMoreIsDone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		first, second := web("first"), web("second")
		first.Labels = map[string]string{"phase": "poolers"}
		env.node.Add(first, time.Minute).Add(second, time.Second)
		h := env.handler()
		isPooler := func(p drain.Pod) bool { return p.Labels["phase"] == "poolers" }
		h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: isPooler}, {Name: "workloads"}}
		time.AfterFunc(10*time.Second, func() { env.lost() })
		began := time.Now()
		report, err := invoke(t, h)
		var incomplete *Incomplete
		require.ErrorAs(t, err, &incomplete)
		require.Contains(t, report.Reason, drain.ErrTakenOver.Error())
		require.Equal(t, StatusIncomplete, report.Status)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Empty(t, env.completed)
		require.NotContains(t, env.node.Log(), "evict app/second")
		require.Equal(t, []Keep{KeepAll}, env.kept, "the release leaves it to its new holder")
	})
}

// An interruption's drain ends, and that of a hook follows: the instance still has only its two minutes.
func TestSpotInterruption_Deadline_IsOnTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("web"), time.Second)
		began := time.Now()
		_, err := deliver(t, env.handler(), triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, began.Add(spotTime), env.leaseDeadline)

		env = newTestEnv()
		_, err = invoke(t, env.handler())
		require.NoError(t, err)
		require.Zero(t, env.leaseDeadline)
	})
}

// A try that would begin when the time is over could only come too late.
func TestAcquireLease_AlwaysFails_TriesEndWithTheTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, denied := newTestEnv(), errors.New("denied")
		env.failAlways("acquire", denied)
		began, j := time.Now(), env.handler().newJob(event)
		require.False(t, j.acquireLease(t.Context(), env))
		require.ErrorIs(t, j.noLease, denied)
		require.Equal(t, 5, count(env.effects(), "acquire"), "at 0, 2, 4, 6 and 8 s")
		require.Equal(t, acquireTime-acquireRetry, time.Since(began))
	})
}

// A Lease whose context has ended is not renewed. Unreleased, it keeps other invocations away until it expires.
func TestAcquireLease_AnswerTooLate_ReleasedAndDrainDoesWithout(t *testing.T) {
	for name, c := range map[string]struct {
		delay time.Duration
		kept  []Keep
	}{
		"in time":  {acquireTime - 1, nil},
		"too late": {acquireTime + 1, []Keep{KeepAll}},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.delay = c.delay
			j := env.handler().newJob(event)
			require.False(t, j.acquireLease(t.Context(), env), name)
			require.Equal(t, c.kept, env.kept, name)
			require.Equal(t, 1, count(env.effects(), "acquire"), name)
			if c.kept == nil {
				require.NoError(t, j.noLease, name)
				require.NotNil(t, j.lease, name)
				j.releaseLease()
				return
			}
			require.ErrorIs(t, j.noLease, context.DeadlineExceeded, name)
			require.Nil(t, j.lease, name)
			require.Equal(t, drain.EffortNoEscorts, j.drainer.Effort, name)
		})
	}
}

// No Lease could be had when the node was closed. If its instance returns to service, for example from a warm pool, only the Lease tells
// that quiesce closed the node.
func TestDrain_ClosedWithoutLease_RecordedBeforeTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration // of the pod
		kept  Keep
	}{
		"completed": {5 * time.Minute, KeepClosed}, "handed off": {time.Hour, KeepAll},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.node.Add(web("web"), c.takes)
				heal := env.failAlways("acquire", errors.New("etcd is away"))
				time.AfterFunc(time.Minute, heal)
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
				defer cancel()
				_, _ = env.handler().Invoke(ctx, nil)
				require.Len(t, env.closed, 1)
				require.True(t, env.closed[0].Unschedulable)
				require.Equal(t, []Keep{c.kept}, env.kept)
				saved, completed := slices.Index(env.effects(), "save"), slices.Index(env.effects(), "complete t-1 CONTINUE")
				require.Equal(t, name == "completed", completed > saved, "%v", env.effects())
			})
		})
	}
}

func TestDrain_ClosedAndNeverALease_SaidAndCompleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("acquire", errors.New("etcd is away"))
		h := env.handler()
		var log bytes.Buffer
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Contains(t, log.String(), "failed to record that the node was closed")
	})
}

// The Lease may name what another invocation changed.
func TestSaveUnsaved_OtherInvocationClosedToo_BothAreKept(t *testing.T) {
	env := newTestEnv()
	env.closed = []ClosedNode{{UID: "uid-1", Excluded: true}, {UID: "uid-2", Unschedulable: true}}
	j := env.handler().newJob(event)
	require.NoError(t, j.saveClosed(t.Context(), ClosedNode{UID: "uid-1", Unschedulable: true}))
	require.True(t, j.closedBefore(drain.Node{UID: "uid-1"}).Unschedulable)
	require.Nil(t, j.closedBefore(drain.Node{UID: "uid-2"}))
	j.saveUnsaved(t.Context(), env)
	require.ElementsMatch(t, []ClosedNode{{UID: "uid-1", Excluded: true, Unschedulable: true}, {UID: "uid-2", Unschedulable: true}}, env.closed)
	j.releaseLease()
}

// Two nodes claim one instance, and a person opens both: they are closed again at once.
func TestSaveUnsaved_NodesClosedAtOnce_AllAreKept(t *testing.T) {
	env := newTestEnv()
	j := env.handler().newJob(event)
	var group sync.WaitGroup
	for _, uid := range []string{"uid-1", "uid-2", "uid-3", "uid-4"} {
		group.Go(func() {
			if err := j.saveClosed(t.Context(), ClosedNode{UID: uid, Unschedulable: true}); err != nil {
				t.Error(err)
			}
			if j.closedBefore(drain.Node{UID: uid}) == nil {
				t.Error(uid)
			}
		})
	}
	group.Wait()
	require.Len(t, j.unsaved.all(), 4)
}
