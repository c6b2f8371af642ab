package termination

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// A node that was closed for a Spot interruption that was not true is capacity that is paid for and not used.
func TestIsRestorable_WhatClosedIt_Decides(t *testing.T) {
	bubble.Test(t, func(t *testing.T) { // no time passes
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
		for name, c := range map[string]struct {
			node ClosedNode
			want bool
		}{
			"our hook":               {ClosedNode{Hook: "quiesce", CordonedAt: ago(minCordonAge)}, true},
			"our hook, just now":     {ClosedNode{Hook: "quiesce", CordonedAt: ago(minCordonAge / 2)}, false},
			"another hook":           {ClosedNode{Hook: "theirs", CordonedAt: ago(time.Hour)}, false},
			"by hand":                {ClosedNode{CordonedAt: ago(time.Hour)}, false},
			"an interruption":        {ClosedNode{Trigger: SpotInterruption, CordonedAt: ago(untrueInterruptionAge)}, true},
			"a true interruption":    {ClosedNode{Trigger: SpotInterruption, CordonedAt: ago(minCordonAge)}, false},
			"a recommendation stays": {ClosedNode{Trigger: RebalanceRecommendation, CordonedAt: ago(time.Hour)}, false},
		} {
			require.Equal(t, c.want, Policy{Hook: "quiesce"}.isRestorable(c.node), name)
		}
	})
}

func TestRestore_FromTheLease_ForgottenThere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		h, _ := env.withQueue()
		env.errors["restore"] = []error{errors.New("throttled")}
		require.Zero(t, sweepOnce(t, h).Restored)
		require.Len(t, env.closed, 1, "the next sweep tries again")
		require.Equal(t, 1, sweepOnce(t, h).Restored)
		require.Empty(t, env.closed)
		require.Equal(t, []Keep{KeepRecords, KeepRecords}, env.kept)
		require.Zero(t, sweepOnce(t, h).Restored, "once")
	})
}

func TestSweep_UntrueInterruption_NodeOpenedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.closed[0].Hook, env.closed[0].Trigger = "", SpotInterruption
		h, _ := env.withQueue()
		require.Equal(t, 1, sweepOnce(t, h).Restored)
		require.Equal(t, []string{"acquire", "restore node-1", "release"}, env.effects())
	})
}

// A drain saves what it is about to change, and keeps it until the instance is gone or returns.
func TestClosed_AfterDrain_StaysOnTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		_, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, []Keep{KeepClosed}, env.kept)
		require.Len(t, env.closed, 1)
		require.Equal(t, "quiesce", env.closed[0].Hook)
	})
}
