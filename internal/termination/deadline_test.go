package termination

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

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

// A Lease can bring a shorter deadline before anything is evicted, or while pods are.
func TestClock_Shortened_LimitsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{bounds: Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second}}
		began := time.Now()
		c.shorten(began.Add(5 * time.Minute))
		c.setForHook(began, began, Hook{})
		require.Equal(t, began.Add(29*time.Minute+30*time.Second), c.deadline())

		limits, ctx, stop := c.startEvicting(t.Context(), began)
		require.Equal(t, began.Add(5*time.Minute), limits.Deadline, "from the start")
		require.Equal(t, spotMaxWait, limits.MaxWait)
		c.shorten(began.Add(6 * time.Minute))
		require.NoError(t, ctx.Err(), "a later deadline changes nothing")
		c.shorten(began.Add(time.Minute))
		require.ErrorIs(t, context.Cause(ctx), errDeadlineShortened)
		stop()

		limits, ctx, stop = c.startEvicting(t.Context(), began)
		defer stop()
		require.Equal(t, began.Add(time.Minute), limits.Deadline)
		require.True(t, c.wasShortened())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.ErrorIs(t, context.Cause(ctx), errDeadlineReached)
	})
}
