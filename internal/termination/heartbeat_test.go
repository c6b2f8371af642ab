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

func TestHeartbeats_Drain_StartAtOnceAndStopWithIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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

func TestHeartbeats_NoAnswer_NextOneIsSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		env := newTestEnv().handler().newJob(event)
		silent := &silentHooks{Hooks: env.Hooks}
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
	Hooks
	asked int
}

func (s *silentHooks) Heartbeat(ctx context.Context, _ Termination) error {
	s.asked++
	<-ctx.Done()
	return ctx.Err()
}

// Only a heartbeat that fails while the drain lasts is worth a line. Each drain ends one that is under way.
func TestHeartbeats_FailOrEndWithDrain_OnlyFailureIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testEnv)
		lines  int
	}{
		"failed":        {func(env *testEnv) { env.errors["heartbeat"] = []error{errors.New("Rate exceeded")} }, 1},
		"ended with it": {func(env *testEnv) { env.hangs = map[string]bool{"heartbeat": true} }, 0},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			c.change(env)
			h := env.handler()
			var log strings.Builder
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			stop := h.newJob(event).heartbeater().start(t.Context(), env.hook)
			time.Sleep(time.Second)
			stop()
			require.Equal(t, c.lines, strings.Count(log.String(), "heartbeat failed"), name)
		})
	}
}

func TestHeartbeatStats_Results_TellWhetherAnActionWasActive(t *testing.T) {
	throttled := errors.New("Rate exceeded")
	for _, c := range []struct {
		results []error
		want    bool
	}{
		{nil, false},
		{[]error{nil}, true},
		{[]error{throttled}, true},
		{[]error{ErrNoActiveAction}, false},
		{[]error{throttled, ErrNoActiveAction}, false},
		{[]error{nil, ErrNoActiveAction}, true},
	} {
		var stats heartbeatStats
		for _, err := range c.results {
			stats.observe(err)
		}
		require.Equal(t, c.want, stats.sawActiveAction(), "%v", c.results)
	}
}
