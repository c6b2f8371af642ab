package termination

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
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
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 5*time.Minute)
		env.token = "t-2"
		env.activities = map[string]time.Time{event.InstanceID: time.Now().Add(-time.Minute)}
		stale := event
		stale.Began = time.Now().Add(-3 * time.Hour)
		want := time.Now().Add(29*time.Minute + 30*time.Second)
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.token = "t-2"
		stale, seen := event, time.Now().Add(-10*time.Minute)
		stale.Began = time.Now().Add(-3 * time.Hour)
		report, err := deliver(t, env.handler(), Record{Termination: &stale, FirstReceived: seen})
		require.NoError(t, err)
		require.Equal(t, seen.Add(29*time.Minute+30*time.Second), report.Deadline)
	})
}

// failingActivities fails as often as it is told to.
type failingActivities struct {
	Groups
	failures, asked int
}

func (f *failingActivities) ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error) {
	if f.asked++; f.asked <= f.failures {
		return nil, errors.New("Rate exceeded")
	}
	return f.Groups.ActivityStarts(ctx, group)
}

func TestAskActivities_Throttled_AskedThreeTimes(t *testing.T) {
	for _, c := range []struct {
		failures, asked int
		known           bool
	}{
		{0, 1, true}, {1, 2, true}, {2, 3, true}, {3, 3, false}, {100, 3, false},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			began := time.Now()
			env.activities = map[string]time.Time{event.InstanceID: began}
			h := env.handler()
			groups := &failingActivities{Groups: env, failures: c.failures}
			h.Groups = groups
			at := h.newJob(event).askActivities(t.Context())()
			require.Equal(t, c.asked, groups.asked, c)
			require.Equal(t, c.known, at.Equal(began), c)
			require.Equal(t, time.Duration(c.asked-1)*activityRetry, time.Since(began), c)
		})
	}
}

func TestLearnClock_EventTimeNotUsed_LoggedBeyondTolerance(t *testing.T) {
	for off, logged := range map[time.Duration]bool{
		0: false, clockTolerance: false, clockTolerance + 1: true, -clockTolerance: false, -clockTolerance - 1: true,
	} {
		bubble.Test(t, func(t *testing.T) {
			h := newTestEnv().handler()
			var log strings.Builder
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			j := h.newJob(event)
			now := time.Now()
			j.Began, j.received = now.Add(off), now
			j.learnClock(func() time.Time { return time.Time{} }, Hook{})
			require.Equal(t, now, j.Began)
			require.Equal(t, logged, strings.Contains(log.String(), "event's time not used"), off)
		})
	}
}

// A node that was closed for another hook says nothing about this action.
func TestNotBeforeClosed_ClosedByThisHook_LaterBeginningCounts(t *testing.T) {
	received := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	later, earlier := received.Add(time.Minute), received.Add(-time.Minute)
	for name, c := range map[string]struct {
		closed ClosedNode
		want   time.Time
	}{
		"later":          {ClosedNode{Hook: event.Hook, Began: later}, later},
		"earlier":        {ClosedNode{Hook: event.Hook, Began: earlier}, received},
		"another hook's": {ClosedNode{Hook: "another", Began: later}, received},
	} {
		env := newTestEnv()
		env.closed = []ClosedNode{c.closed}
		j := env.handler().newJob(event)
		j.lease = fakeLease{&env.records, env}
		require.Equal(t, c.want, j.notBeforeClosed(received), name)
	}
}
