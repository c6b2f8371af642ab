package termination

import (
	"context"
	"errors"
	"quiesce/internal/drain"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An unreachable cluster must not let the hook run out, nor keep the instance for ever.
func TestUnreachableCluster_AtDeadline_OnFailureDecides(t *testing.T) {
	for _, step := range []string{"connect", "acquire"} {
		synctest.Test(t, func(t *testing.T) {
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
			for _, seen := range []time.Time{now.Add(-time.Hour), {}} {
				env.completed = nil
				report, err = deliver(t, h, Record{Termination: &late, FirstReceived: seen})
				require.NoError(t, err)
				require.Equal(t, StatusFailed, report.Status)
				require.Contains(t, report.Reason, "no route to host")
				require.Equal(t, []Result{Abandon}, env.completed)
			}
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
		"every pod is gone":               {func(*testEnv) {}, 0, KeepNothing},
		"a pod remains at the deadline":   {func(e *testEnv) { e.node.Add(web("stuck"), 2*time.Hour) }, 0, KeepRecords},
		"no pod was seen until the end":   {func(e *testEnv) { e.failAlways("cordon", errors.New("forbidden")) }, time.Hour, KeepRecords},
		"the next invocation is to drain": {func(e *testEnv) { e.failAlways("cordon", errors.New("forbidden")) }, 0, KeepAll},
	} {
		synctest.Test(t, func(t *testing.T) {
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

// A crashed escort left a pause, and the node could not be cordoned again until the deadline. Retained, the instance runs on with its
// pods, and only the record says what is paused.
func TestSweep_RetainedAfterACrash_UndoesTheEscort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.state = "Terminating:Wait"
		require.NoError(t, env.records.SetRecord(t.Context(), "uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		env.node.Add(web("paused"), 0)
		env.failAlways("cordon", errors.New("forbidden"))
		h, _ := env.withQueue()
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undoRecorder{env: env}}}
		late := event
		late.Began = time.Now()
		time.Sleep(time.Hour)
		_, err := deliver(t, h, Record{Termination: &late, FirstReceived: late.Began})
		require.NoError(t, err)
		require.Equal(t, []Result{Abandon}, env.completed)
		require.Equal(t, []Keep{KeepRecords}, env.kept)

		env.state = "Terminating:Retained"
		sweepOnce(t, h)
		require.Contains(t, env.effects(), "undo paused")
	})
}
