package termination

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHookInterval_TimeoutUnknown_AssumesShortest(t *testing.T) {
	require.InDelta(t, 10*time.Second, Hook{}.interval("i-0"), float64(time.Second), "a third of the shortest timeout")
	require.InDelta(t, 100*time.Second, Hook{HeartbeatTimeout: 5 * time.Minute}.interval("i-0"), float64(10*time.Second))
}

func TestHookLimit_ByTimeouts_MatchesAutoScaling(t *testing.T) {
	for _, c := range []struct {
		hook Hook
		want time.Duration
	}{
		{Hook{}, 0},
		{Hook{HeartbeatTimeout: 30 * time.Second}, 50 * time.Minute},
		{Hook{HeartbeatTimeout: time.Hour}, 48 * time.Hour},
		{Hook{HeartbeatTimeout: 2 * time.Hour}, 48 * time.Hour},
		{Hook{HeartbeatTimeout: time.Hour, GlobalTimeout: 10 * time.Minute}, 10 * time.Minute},
	} {
		require.Equal(t, c.want, c.hook.limit(), "%+v", c.hook)
	}
}

// A retained instance that is terminated again starts a new action. If its first event is delivered again, its token is invalid and its
// clock ran out long ago. Under that clock, its pods would have no time at all, and the hook would run out.
func TestStaleEvent_NewerActionActive_UsesItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 5*time.Minute)
		env.token = "t-2"
		env.activities = map[string]time.Time{event.InstanceID: time.Now().Add(-time.Minute)}
		stale := event
		stale.Began = time.Now().Add(-3 * time.Hour)
		want := env.activities[event.InstanceID].Add(29*time.Minute + 30*time.Second)
		report, err := deliver(t, env.handler(), Record{Termination: &stale})
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, want, report.Deadline)
		require.Equal(t, []Result{Continue}, env.completed)
		require.Greater(t, len(env.heartbeats), 10)
		for _, b := range env.heartbeats[1:] {
			require.Empty(t, b.termination.Token)
		}
	})
}

func TestStaleEvent_YoungEvent_KeepsCurrentActionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 5*time.Minute)
		env.token = "t-2"
		_, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, []Result{Continue}, env.completed)
		require.Empty(t, env.heartbeats[len(env.heartbeats)-1].termination.Token, "the instance's present action is kept alive")
	})
}

func TestStaleEvent_StartUnknown_FirstReceiptCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.token = "t-2"
		stale, seen := event, time.Now().Add(-10*time.Minute)
		stale.Began = time.Now().Add(-3 * time.Hour)
		report, err := deliver(t, env.handler(), Record{Termination: &stale, FirstReceived: seen})
		require.NoError(t, err)
		require.Equal(t, seen.Add(29*time.Minute+30*time.Second), report.Deadline)
	})
}
