package termination

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// startNow is the start of an action that begins now, and whose event comes at once.
func startNow() start { return start{time.Now(), time.Now(), time.Now()} }

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
		require.Equal(t, c.want, c.bounds.deadline(start{began, began.Add(c.seen), began}, c.hook).Sub(began), c.name)
	}
}

// When a thousand instances terminate together, the last events wait longer than a drain may take. Their pods must not be killed without
// a signal for that.
func TestDeadline_LateEvent_GetsTwoMinutes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), time.Minute)
		late := event
		late.Began = time.Now().Add(-time.Hour)
		env.activities = map[string]time.Time{event.InstanceID: late.Began}
		report, err := deliver(t, env.handler(), Record{Termination: &late})
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)

		env = newTestEnv()
		env.node.Add(web("stuck"), time.Hour)
		seen := time.Now().Add(-time.Minute) // by an earlier invocation
		late.Began = time.Now().Add(-time.Hour)
		env.activities = map[string]time.Time{event.InstanceID: late.Began}
		report, err = deliver(t, env.handler(), Record{Termination: &late, FirstReceived: seen})
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, seen.Add(lateDrainTime), time.Now(), "and no more with each invocation")
	})
}

// The time of a message is what its sender says. Three days ago it completed the action before any pod was told to stop, tomorrow it held
// the node for a day, an hour ago it forced pods past their PDBs.
func TestClock_ForgedTime_HasNoEffect(t *testing.T) {
	for name, forged := range map[string]time.Duration{"three days ago": -72 * time.Hour, "an hour ago": -time.Hour, "tomorrow": 24 * time.Hour} {
		for _, activity := range []time.Duration{0, -time.Minute} { // since the activity began; zero: it is unknown
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.node.Add(web("stuck"), time.Hour)
				h := env.handler()
				h.Policy.Bounds.MaxDuration = 10 * time.Minute
				now := time.Now()
				if activity != 0 {
					env.activities = map[string]time.Time{event.InstanceID: now.Add(activity)}
				}
				claim := event
				claim.Token, claim.Began = "", now.Add(forged)
				report, err := deliver(t, h, Record{Termination: &claim, FirstReceived: now})
				require.NoError(t, err)
				earliest, latest := now.Add(activity).Add(9*time.Minute+30*time.Second), now.Add(9*time.Minute+30*time.Second)
				require.False(t, report.Deadline.Before(earliest), "%s: %s", name, report.Deadline.Sub(now))
				require.False(t, report.Deadline.After(latest), "%s: %s", name, report.Deadline.Sub(now))
				require.Contains(t, env.effects(), "evict app/stuck", name)
			})
		}
	}
}

func TestStartOf_Claims_ClampedBetweenActivityAndReceipt(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	for _, c := range []struct {
		name                        string
		claimed, activity, received time.Time
		want                        start
	}{
		{"true", at(-9), at(-10), at(-8), start{at(-9), at(-8), at(-9)}},
		{"true, long after the activity", at(-9), at(-60), at(-8), start{at(-9), at(-8), at(-9)}},
		{"too early, by a clock", at(-11), at(-10), at(-8), start{at(-10), at(-8), at(-10)}},
		{"too early", at(-60), at(-10), at(-8), start{at(-8), at(-8), at(-10)}},
		{"too late", at(60), at(-10), at(-8), start{at(-8), at(-8), at(-10)}},
		{"not claimed", time.Time{}, at(-10), at(-8), start{at(-8), at(-8), at(-10)}},
		{"no activity", at(-60), time.Time{}, at(-8), start{at(-8), at(-8), at(-8)}},
		{"received before the activity", at(-60), at(-10), at(-30), start{at(-10), at(-10), at(-10)}},
		{"received in the future", at(-9), time.Time{}, at(30), start{now, now, now}},
		{"an activity in the future", at(-9), at(30), at(-8), start{now, now, now}},
	} {
		require.Equal(t, c.want, startOf(c.claimed, c.activity, []time.Time{c.received}, now), c.name)
	}
}

// Behind a load balancer the instance is deregistered first, for up to an hour. The activity begins before that, and the wait after it. Two
// minutes after an event was sent again, pods were deleted past their PDBs.
func TestClock_ConnectionsDrainedFirst_WholeTimeFromFirstReceipt(t *testing.T) {
	const deregistration = time.Hour
	drains := map[string]Record{
		"sent again": {Termination: &Termination{Group: event.Group, Hook: event.Hook, InstanceID: event.InstanceID}},
		"by hand":    {Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}},
	}
	for name, record := range drains {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			env.activities = map[string]time.Time{event.InstanceID: time.Now().Add(-deregistration)}
			first := time.Now()
			report, err := deliver(t, env.handler(), record)
			require.NoError(t, err, name)
			require.Equal(t, first.Add(29*time.Minute+30*time.Second), report.Deadline, name)

			env.completed, env.received = nil, first // as the Lease says
			time.Sleep(10 * time.Minute)
			report, err = deliver(t, env.handler(), record)
			require.NoError(t, err, name)
			require.Equal(t, first.Add(29*time.Minute+30*time.Second), report.Deadline, "%s, once more", name)

			env.hook.GlobalTimeout = deregistration + 20*time.Minute
			report, err = deliver(t, env.handler(), record)
			require.NoError(t, err, name)
			require.Equal(t, first.Add(19*time.Minute+30*time.Second), report.Deadline, "%s, within what Auto Scaling allows at least", name)
		})
	}
}

// Found by the simulation, seed 7779: the Lease had the receipt of an earlier action, whose drain crashed.
func TestClock_LeaseOfAnEarlierAction_OwnReceiptCounts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		now := time.Now()
		env.activities = map[string]time.Time{event.InstanceID: now.Add(-time.Hour)}
		env.received = now.Add(-2 * time.Hour)
		again := event
		for _, received := range []time.Time{now, now.Add(-90 * time.Minute)} { // the second message is of that action too
			report, err := deliver(t, env.handler(), Record{Termination: &again, FirstReceived: received})
			require.NoError(t, err)
			require.Equal(t, now.Add(29*time.Minute+30*time.Second), report.Deadline, "%s", received)
		}
	})
}

// An earlier invocation may have been given the event long before this one, which does not know it.
func TestClock_NoActivity_EarliestReceiptOfTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		earliest := time.Now().Add(-5 * time.Minute)
		env.received = earliest
		claim := event
		report, err := deliver(t, env.handler(), Record{Termination: &claim, FirstReceived: time.Now()})
		require.NoError(t, err)
		require.Equal(t, earliest.Add(29*time.Minute+30*time.Second), report.Deadline)
	})
}

// A drain by hand of the day before is not the receipt of this event: all its pods were signaled in the last ten seconds.
func TestClock_NoActivityAfterManualDrain_OwnReceiptCounts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(time.Second)
		h.Policy.AllowManualDrain, h.Policy.Bounds.MaxDuration = true, time.Hour
		env.setState(inService)
		_, err := deliver(t, h, Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}})
		require.ErrorAs(t, err, new(*Incomplete))
		time.Sleep(24 * time.Hour)

		env.setState("Terminating:Wait")
		env.node.Allow("b", 1)
		claim, now := event, time.Now()
		claim.Began = time.Time{}
		report, err := deliver(t, h, Record{Termination: &claim, FirstReceived: now})
		require.NoError(t, err)
		require.Equal(t, now.Add(time.Hour-h.Policy.Bounds.CompletionReserve), report.Deadline)
	})
}

// The activities are optional. Without permission or without an answer, the drain goes on.
func TestClock_ActivitiesNotReadable_DrainsByReceipt(t *testing.T) {
	for name, change := range map[string]func(*testEnv){
		"denied":    func(env *testEnv) { env.failAlways("activities", errors.New("AccessDenied")) },
		"no answer": func(env *testEnv) { env.hangs = map[string]bool{"activities": true} },
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			change(env)
			claim, now := event, time.Now()
			claim.Began = now.Add(-time.Hour)
			report, err := deliver(t, env.handler(), Record{Termination: &claim, FirstReceived: now})
			require.NoError(t, err, name)
			require.Equal(t, StatusDrained, report.Status, name)
			require.Equal(t, now.Add(29*time.Minute+30*time.Second), report.Deadline, name)
		})
	}
}

// A Lease can bring a shorter deadline before anything is evicted, or while pods are.
func TestClock_Shortened_LimitsFollow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := &clock{bounds: Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second}}
		began := time.Now()
		c.shorten(began.Add(5 * time.Minute))
		c.setForHook(start{began, began, began}, Hook{})
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

func TestIsLongOver_AfterTheHooksDeadline_FromOneMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := &clock{bounds: Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second}}
		require.False(t, c.isLongOver(), "the deadline is unknown")
		c.setForHook(startNow(), Hook{})
		time.Sleep(time.Until(c.deadline()) + lateRetryTime)
		require.False(t, c.isLongOver())
		time.Sleep(time.Nanosecond)
		require.True(t, c.isLongOver())
	})
}

// The rest of a short reserve is for completing the action.
func TestDaemonTime_ShortReserve_IsHalfOfIt(t *testing.T) {
	for reserve, want := range map[time.Duration]time.Duration{8 * time.Second: 4 * time.Second, time.Minute: daemonShutdownTime} {
		bubble.Test(t, func(t *testing.T) {
			c := &clock{bounds: Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: reserve}}
			c.setForHook(startNow(), Hook{})
			ctx, cancel := c.withDaemonTime(t.Context())
			defer cancel()
			end, limited := ctx.Deadline()
			require.True(t, limited)
			require.Equal(t, want, end.Sub(c.deadline()))
		})
	}
}
