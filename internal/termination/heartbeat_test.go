package termination

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHeartbeats_Drain_StartAtOnceAndStopWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 5*time.Minute)
		env.errors["heartbeat"] = []error{errors.New("Rate exceeded"), errors.New("Rate exceeded")}
		began := time.Now()
		_, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, began, env.heartbeats[0].at, "the event may have waited long")
		require.Equal(t, heartbeatRetry, env.heartbeats[1].at.Sub(env.heartbeats[0].at))
		require.Equal(t, 2*heartbeatRetry, env.heartbeats[2].at.Sub(env.heartbeats[1].at), "throttling does not add requests")
		for i := 3; i < len(env.heartbeats); i++ {
			gap := env.heartbeats[i].at.Sub(env.heartbeats[i-1].at)
			require.LessOrEqual(t, gap, 20*time.Second)
			require.GreaterOrEqual(t, gap, 18*time.Second)
		}
		sent := len(env.heartbeats)
		time.Sleep(time.Hour)
		require.Len(t, env.heartbeats, sent, "no goroutine is leaked")
	})
}

// A throttled account must not let the hook run out: heartbeats are retried in time.
func TestHeartbeats_FailForLong_RetriedWithinTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 10*time.Minute)
		env.failAlways("heartbeat", errors.New("Rate exceeded"))
		_, err := invoke(t, env.handler())
		require.NoError(t, err)
		for i := 1; i < len(env.heartbeats); i++ {
			gap := env.heartbeats[i].at.Sub(env.heartbeats[i-1].at)
			require.LessOrEqual(t, gap, env.hook.HeartbeatTimeout/heartbeatsPerTimeout)
			require.GreaterOrEqual(t, gap, heartbeatRetry)
		}
	})
}

// The next invocation begins seconds later, or a minute later if Lambda itself retries. The hook must have its whole timeout then.
func TestHeartbeats_InvocationEnds_LastOneSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), time.Hour)
		_, err := invoke(t, env.handler())
		require.ErrorContains(t, err, "incomplete")
		last := env.heartbeats[len(env.heartbeats)-1].at
		require.Equal(t, time.Now(), last)
		sent := len(env.heartbeats)
		time.Sleep(time.Hour)
		require.Len(t, env.heartbeats, sent, "no goroutine is leaked")
	})
}

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

func TestDeadline_OursAndHooks_EarlierWins(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	usual := Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second}
	for _, c := range []struct {
		name   string
		bounds Bounds
		hook   Hook
		seen   time.Duration // after it began
		want   time.Duration // the same
	}{
		{"no hook", usual, Hook{}, 0, 29*time.Minute + 30*time.Second},
		{"ours", usual, Hook{GlobalTimeout: 48 * time.Hour}, 0, 29*time.Minute + 30*time.Second},
		{"the hook's", usual, Hook{GlobalTimeout: 10 * time.Minute}, 0, 9*time.Minute + 30*time.Second},
		{"the hook's, from its heartbeat timeout", usual, Hook{HeartbeatTimeout: 5 * time.Second}, 0, 7*time.Minute + 50*time.Second},
		{"an event that waited", usual, Hook{}, 20 * time.Minute, 29*time.Minute + 30*time.Second},
		{"an event that waited too long", usual, Hook{}, time.Hour, time.Hour + lateDrainTime},
		{"an event just before the end", usual, Hook{}, 29 * time.Minute, 29*time.Minute + lateDrainTime},
		{"an event too late for the hook", usual, Hook{GlobalTimeout: time.Hour}, time.Hour, 59*time.Minute + 30*time.Second},
		{"a short drain, late", Bounds{MaxDuration: 20 * time.Second}, Hook{}, time.Minute, time.Minute + 10*time.Second},
		{"a short drain", Bounds{MaxDuration: 20 * time.Second}, Hook{}, time.Second, 20 * time.Second},
	} {
		require.Equal(t, c.want, c.bounds.deadline(began, began.Add(c.seen), c.hook).Sub(began), c.name)
	}
}

// deliver runs one invocation for the record, with Lambda's full fifteen minutes.
func deliver(t *testing.T, h *Handler, record Record) (Report, error) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{record}} }
	return invoke(t, h)
}

// When a thousand instances terminate together, the last events wait longer than a drain may take. Their pods must not be killed without
// a signal for that.
func TestDeadline_LateEvent_GetsTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), time.Minute)
		late := event
		late.Began = time.Now().Add(-time.Hour)
		report, err := deliver(t, env.handler(), Record{Termination: &late})
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)

		env = newTestEnv()
		env.node.Add(web("stuck"), time.Hour)
		seen := time.Now().Add(-time.Minute) // by an earlier invocation
		late.Began = time.Now().Add(-time.Hour)
		report, err = deliver(t, env.handler(), Record{Termination: &late, FirstReceived: seen})
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, seen.Add(lateDrainTime), time.Now(), "and no more with each invocation")
	})
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

// Found by the simulation, seed 9182: a throttled account answers in a moment. Under a guess of an hour ago, the instance would be
// terminated with its pods.
func TestStaleEvent_StartNotReadable_FailsBeforeDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.token = "t-2"
		env.errors["activities"] = []error{errors.New("Throttling")}
		stale := event
		stale.Began = time.Now().Add(-3 * time.Hour)
		report, err := deliver(t, env.handler(), Record{Termination: &stale, FirstReceived: time.Now().Add(-time.Hour)})
		require.ErrorContains(t, err, "Throttling")
		require.Equal(t, StatusFailed, report.Status)
		require.Empty(t, env.completed)
	})
}

// An unreachable cluster must not let the hook run out, nor keep the instance for ever.
func TestUnreachableCluster_UntilDeadline_KeptAliveThenOnFailure(t *testing.T) {
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

func TestHeartbeats_NoAnswer_NextOneIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		env := newTestEnv().handler().newJob(event)
		silent := &silentHooks{hooks: env.Hooks}
		env.Handler.Hooks = silent
		stop := env.heartbeater().start(ctx, Hook{HeartbeatTimeout: time.Minute})
		time.Sleep(time.Minute)
		cancel()
		stop()
		require.GreaterOrEqual(t, silent.asked, 3)
	})
}

// silentHooks never answers a heartbeat.
type silentHooks struct {
	hooks Hooks
	asked int
}

func (s *silentHooks) Describe(ctx context.Context, group, hook string) (Hook, error) {
	return s.hooks.Describe(ctx, group, hook)
}

func (s *silentHooks) Heartbeat(ctx context.Context, _ Termination) error {
	s.asked++
	<-ctx.Done()
	return ctx.Err()
}

func (s *silentHooks) Complete(ctx context.Context, t Termination, result Result) error {
	return s.hooks.Complete(ctx, t, result)
}
