package termination

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// Found by the simulation, seeds 912 and 1821: the invocation for the lifecycle action found the lease held, and no other kept the action
// alive.
func TestInterruption_ActionStartsMeanwhile_IsKeptAlive(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("slow"), 10*time.Minute)
		h := env.handler()
		h.Policy.OnRebalanceRecommendation = true
		began := time.Now()
		time.AfterFunc(2*time.Minute, func() { env.setState("Terminating:Wait") })
		_, err := deliver(t, h, triggered(RebalanceRecommendation))
		require.NoError(t, err)
		last := began.Add(2 * time.Minute)
		for _, heartbeat := range env.heartbeats {
			require.Less(t, heartbeat.at.Sub(last), env.hook.HeartbeatTimeout)
			require.Empty(t, heartbeat.termination.Token)
			last = heartbeat.at
		}
		require.Less(t, time.Since(last), env.hook.HeartbeatTimeout)
		require.Empty(t, env.completed, "the action's own event completes it")
	})
}

func TestInterruption_NoHookOfOurs_SendsNoHeartbeat(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.state = "Terminating:Wait"
		env.errors["hook"] = []error{ErrNoHook}
		env.node.Add(web("web"), time.Minute)
		_, err := deliver(t, env.handler(), triggered(SpotInterruption))
		require.NoError(t, err)
		require.Empty(t, env.heartbeats)
	})
}

// Found by the simulation, seeds 537, 2706 and 25888: a forged event of an instance in service uncordoned the node during a drain.
func TestRejectedEvent_CordonedForTrigger_StaysCordoned(t *testing.T) {
	for hook, effects := range map[string][]string{
		"": nil, "quiesce": {"acquire", "restore node-1", "release", "untaint node-i-0abc1234"},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			env.closed[0].Hook = hook
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status)
			require.Equal(t, effects, env.effects())
		})
	}
}

// undoRecorder is an escort that records what it undoes.
type undoRecorder struct {
	otherMethods
	env *testEnv
}

func (r undoRecorder) Undo(_ context.Context, p drain.EscortRequest) error {
	return r.env.do("undo " + p.Name)
}

// Found by the simulation, seed 2403: an invocation crashed while a pooler was paused, the next could not cordon, and the group retained
// the instance with the paused pooler.
func TestSweep_RetainedInstance_UndoesEscortsKeepsCordon(t *testing.T) {
	for _, state := range retainedStates {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			env.state = state
			paused := web("paused")
			require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
			env.node.Add(paused, 0).Add(web("web"), 0)
			h, _ := env.withQueue()
			h.Groups = warmGroups{env}
			h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undoRecorder{env: env}}}
			require.Zero(t, sweepOnce(t, h).Restored)
			require.Equal(t, []string{"acquire", "undo paused", "release"}, env.effects(), state)
		})
	}
}

// Found by the simulation, seeds 21667 and 44534: no invocation followed one that ended just before the Spot interruption's deadline.
func TestSpotInterruption_AfterDeadline_NamesRemainingPods(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		stuck := web("stuck")
		stuck.Labels = map[string]string{"budget": "b"}
		env.node.Add(stuck, time.Second).Allow("b", 0)
		record := triggered(SpotInterruption)
		time.Sleep(spotTime + time.Second)
		report, err := deliver(t, env.handler(), record)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Len(t, report.Pods, 1)
		require.True(t, time.Now().Before(record.Termination.Began.Add(spotTime+spotReserve)))
	})
}
