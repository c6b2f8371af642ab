package termination

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// The instances of a warm pool are not in the description of their group. They were rejected, kept waiting until the hook ran out, and
// stopped with pods that were never told.
func TestVerify_WarmPool_DrainedIfItWaitsOnOurHook(t *testing.T) {
	for _, state := range []string{"Warmed:Pending:Wait", "Warmed:Terminating", "Warmed:Terminating:Wait"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = state
			env.node.Add(web("web"), time.Second)
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status, state)
			require.Equal(t, []Result{Continue}, env.completed, state)
		})
	}
}

// Descriptions lag behind events. Each state before that of waiting is as likely as InService.
func TestVerify_DescribedLate_AskedAgain(t *testing.T) {
	for before, waiting := range map[string]string{
		"Warmed:Pending": "Warmed:Pending:Wait", "Warmed:Stopped": "Warmed:Terminating:Wait", "Terminating:Retained": "Terminating:Wait",
		"ReplacingRootVolume": "ReplacingRootVolume:Wait", "Pending": "Terminating:Wait",
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = before
			env.node.Add(web("web"), time.Second)
			time.AfterFunc(3*time.Second, func() { env.setState(waiting) })
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status, "%s: %s", before, report.Reason)
		})
	}
}

// Its heartbeats would be accepted, and its launch completed.
func TestVerify_WarmPoolLaunchHookOfOurName_NothingWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "Warmed:Pending:Wait"
		env.hook.Launching = true
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Contains(t, report.Reason, "hook quiesce of group workers-a is for launches")
		require.Empty(t, env.effects())
		require.Empty(t, env.heartbeats)
	})
}

// Without the hook's settings it is not known what the heartbeat would keep alive. The event comes again.
func TestVerify_WarmPoolHookNotDescribed_FailsAndWritesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "Warmed:Pending:Wait"
		env.failAlways("hook", errors.New("Throttling"))
		report, err := invoke(t, env.handler())
		require.ErrorContains(t, err, "Throttling")
		require.Equal(t, StatusFailed, report.Status)
		require.Empty(t, env.effects())
		require.Empty(t, env.heartbeats)
	})
}

// Launch hooks use the same state. Only Auto Scaling knows which hook the instance waits on.
func TestVerify_WarmPoolOtherHook_NothingWritten(t *testing.T) {
	for _, token := range []string{event.Token, ""} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = "Warmed:Pending:Wait"
			env.failAlways("heartbeat", ErrNoActiveAction)
			claim := event
			claim.Token, claim.Began = token, time.Now()
			report, err := deliver(t, env.handler(), Record{Termination: &claim})
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status)
			require.Contains(t, report.Reason, "does not wait on hook quiesce")
			require.Empty(t, env.effects())
		})
	}
}

func TestVerify_WarmHeartbeatFails_Retried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "Warmed:Terminating:Wait"
		env.errors["heartbeat"] = []error{errors.New("Throttling")}
		report, err := invoke(t, env.handler())
		require.ErrorContains(t, err, "Throttling")
		require.Equal(t, StatusFailed, report.Status)
		require.Empty(t, env.effects())
	})
}

// A message may name any group. The instance is drained as one of the group that Auto Scaling reports.
func TestVerify_EventNamesAnotherGroup_Rejected(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.group = "workers-b"
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Contains(t, report.Reason, "i-0abc1234 is in group workers-b, not workers-a")
		require.Empty(t, env.effects())
	})
}

func TestPeers_NotDescribed_DrainContinues(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		env.peers = []Instance{{ID: "i-0def", State: "Terminating:Wait"}}
		env.failAlways("group", errors.New("AccessDenied"))
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.NotContains(t, env.effects(), "taint node-i-0def")
	})
}
