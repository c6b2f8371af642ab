package awstest

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// These tests use the clock without the network, so that hours pass at once.

const (
	clockGroup    = "workers-a"
	clockInstance = "i-0123456789abcdef0"
)

// terminating returns a server without a network, with one terminating instance held by these hooks.
func terminating(hooks ...Hook) *Server {
	s := &Server{account: newAccount()}
	s.AddGroup(clockGroup, hooks...)
	s.AddInstance(clockGroup, Instance{ID: clockInstance})
	s.Terminate(clockInstance)
	return s
}

func (s *Server) call(do action, hook, result string) *apiError {
	_, failure := s.locked(do, request{params: url.Values{
		"AutoScalingGroupName":  {clockGroup},
		"LifecycleHookName":     {hook},
		"InstanceId":            {clockInstance},
		"LifecycleActionResult": {result},
	}})
	return failure
}

func TestHook_NoHeartbeats_Expires(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(Hook{Name: "quiesce", HeartbeatTimeout: time.Minute})
		time.Sleep(time.Minute - 1)
		require.Equal(t, stateWait, s.State(clockInstance))
		time.Sleep(time.Nanosecond)
		require.Equal(t, stateProceed, s.State(clockInstance))
		require.True(t, s.Expired(clockInstance))
		require.Empty(t, s.Completions(clockInstance))
		require.NotNil(t, s.call(completeAction, "quiesce", Continue))
		time.Sleep(defaultProceed)
		require.Equal(t, stateGone, s.State(clockInstance))
	})
}

func TestHeartbeat_BeforeTimeout_RestartsTimer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(Hook{Name: "quiesce", HeartbeatTimeout: time.Minute})
		for range 5 {
			time.Sleep(time.Minute - 1)
			require.Nil(t, s.call(recordHeartbeat, "quiesce", ""))
		}
		require.Equal(t, stateWait, s.State(clockInstance))
		require.Len(t, s.Heartbeats(clockInstance), 5)
	})
}

func TestHeartbeat_PastGlobalTimeout_Expires(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(Hook{Name: "quiesce", HeartbeatTimeout: time.Minute})
		for range 199 {
			time.Sleep(30 * time.Second)
			require.Nil(t, s.call(recordHeartbeat, "quiesce", ""))
		}
		time.Sleep(30 * time.Second)
		failure := s.call(recordHeartbeat, "quiesce", "")
		require.Equal(t, "No active Lifecycle Action found with instance ID "+clockInstance, failure.message)
		require.True(t, s.Expired(clockInstance))
	})
}

func TestExpiredHook_Continue_OthersStillWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(
			Hook{Name: "short", HeartbeatTimeout: time.Minute, DefaultResult: Continue},
			Hook{Name: "quiesce"},
		)
		time.Sleep(2 * time.Minute)
		require.True(t, s.Expired(clockInstance))
		require.Equal(t, stateWait, s.State(clockInstance))
		require.Nil(t, s.call(completeAction, "quiesce", Continue))
		require.Equal(t, stateProceed, s.State(clockInstance))
		time.Sleep(defaultProceed)
		require.Equal(t, stateGone, s.State(clockInstance))
	})
}

func TestExpiredHook_Abandon_OthersEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(Hook{Name: "short", HeartbeatTimeout: time.Minute}, Hook{Name: "quiesce"})
		time.Sleep(time.Minute)
		require.NotNil(t, s.call(completeAction, "quiesce", Continue))
		require.Equal(t, stateProceed, s.State(clockInstance))
	})
}

func TestExpiredHook_ReadLater_TimedAtExpiry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := terminating(Hook{Name: "quiesce", HeartbeatTimeout: time.Minute})
		time.Sleep(time.Hour)
		require.Equal(t, stateGone, s.State(clockInstance))
		s.SetDescriptionLag(time.Hour - 30*time.Second)
		seen, there := s.account.describe(s.account.instances[clockInstance])
		require.True(t, there)
		require.Equal(t, stateWait, seen.LifecycleState)
	})
}
