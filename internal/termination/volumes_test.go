package termination

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// The invocation ends while volumes are awaited, and the next one continues. A completion at that moment would cost the volume's next pod six
// minutes, and no pooler of a DaemonSet would be shut down.
func TestVolumes_InvocationEnds_NextGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		env.detachTime = time.Minute
		h := env.handler()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		answer, err := h.Invoke(ctx, nil)
		var incomplete *Incomplete
		require.ErrorAs(t, err, &incomplete)
		require.Equal(t, StatusIncomplete, answer.(Report).Status)
		require.Empty(t, env.completed)

		env.detachTime = 0
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// Another invocation has the Lease now, and completes.
func TestVolumes_LeaseTakenOver_NothingMoreIsDone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		env.detachTime = time.Minute
		time.AfterFunc(10*time.Second, func() { env.lost() })
		report, err := invoke(t, env.handler())
		var incomplete *Incomplete
		require.ErrorAs(t, err, &incomplete)
		require.Contains(t, report.Reason, drain.ErrTakenOver.Error())
		require.Empty(t, env.completed)
	})
}

// A drain by hand, or for a rebalance recommendation, died while a pooler was paused. Its node stays closed, and no event follows.
func TestSweep_NodeClosedByHand_UndoesTheEscortKeepsCordon(t *testing.T) {
	for name, change := range map[string]func(*ClosedNode){
		"by hand":     func(n *ClosedNode) { n.Hook = "" },
		"a rebalance": func(n *ClosedNode) { n.Hook, n.Trigger = "", RebalanceRecommendation },
		"just now":    func(n *ClosedNode) { n.Hook, n.CordonedAt = "", time.Now().Add(time.Second-minCordonAge) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env := returnedEnv()
				change(&env.closed[0])
				require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
				env.node.Add(web("paused"), 0)
				h, _ := env.withQueue()
				h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: savingUndoer{undoRecorder{env: env}, nil}}}
				require.Empty(t, sweepOnce(t, h).Errors)
				if name == "just now" {
					require.Empty(t, env.effects(), "its next invocation may be about to continue it")
					time.Sleep(time.Second)
					sweepOnce(t, h)
				}
				require.Equal(t, []string{"acquire", "undo paused", "release"}, env.effects())
				require.Len(t, env.closed, 1)
				sweepOnce(t, h)
				require.Len(t, env.effects(), 3, "once")
			})
		})
	}
}

// Nothing else closes the node until the primary has moved, which may take until the deadline.
func TestDrain_TaintOfThePrimarysNodeFails_IsTriedAgain(t *testing.T) {
	for _, fails := range []string{"save", "taint"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.errors[fails] = []error{errors.New("the server is busy"), errors.New("the server is busy")}
			primary := web("pg-0")
			primary.Labels = map[string]string{"phase": "databases"}
			env.node.Add(primary, 5*time.Second)
			env.node.Uncordon()
			h := env.handler()
			h.Drainer.Phases = primaryPhases(&primaryEscort{until: time.Now().Add(20 * time.Second)})
			report, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status, report.Reason)
			require.NotContains(t, report.Reason, "busy", fails)
			require.Len(t, env.closed, 1)
			require.Contains(t, env.effects(), "taint node-"+event.InstanceID)
		})
	}
}

// The API server answers nothing for longer than the first attempt may take, as when a hundred nodes end at once. The pods that came to the
// open node are no pods that came back: they are evicted.
func TestDrain_TaintOfThePrimarysNodeFailsForLong_DrainTriesAgain(t *testing.T) {
	for _, fails := range []string{"save", "taint"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			heal := env.failAlways(fails, errors.New("the server is busy"))
			primary := web("pg-0")
			primary.Labels = map[string]string{"phase": "databases"}
			env.node.Add(primary, 5*time.Second)
			env.node.Uncordon()
			h := env.handler()
			h.Drainer.Phases = primaryPhases(&primaryEscort{until: time.Now().Add(2 * time.Minute)})
			time.AfterFunc(20*time.Second, func() {
				for _, name := range []string{"pg-1", "pg-2"} {
					replica := web(name)
					replica.Created = time.Now()
					env.node.Add(replica, 5*time.Second)
				}
			})
			time.AfterFunc(30*time.Second, heal)
			report, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status, report.Reason)
			effects := env.effects()
			tainted := slices.Index(effects, "taint node-"+event.InstanceID)
			require.Positive(t, tainted, effects)
			require.Greater(t, slices.Index(effects, "evict app/pg-2"), tainted)
			require.Greater(t, slices.Index(effects, "cordon node-"+event.InstanceID), slices.Index(effects, "evict app/pg-2"))
			require.Len(t, env.closed, 1)
		})
	}
}
