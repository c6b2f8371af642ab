package termination

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// Found by the simulation, seed 676. An old event under its old clock is at its deadline from the first: its pods would be forced, or
// left, in the first seconds of a drain that has half an hour.
func TestAnOldEventWhoseActionIsNotKnownBeginsNothing(t *testing.T) {
	for name, token := range map[string]string{"asked of the event's own": event.Token, "asked of another": "t-2"} {
		synctest.Test(t, func(t *testing.T) {
			w, h := blocked(2 * time.Second)
			w.token = token
			w.failing("heartbeat", errors.New("throttled"))
			_, err := lateSlice(t, h, time.Hour)
			require.ErrorContains(t, err, "throttled", name)
			require.NotContains(t, w.effects(), "cordon node-i-0abc1234", name)
			require.Empty(t, w.completed, name)
		})
	}
}

// Found by the simulation, seeds 912 and 1821: whoever was sent the event of the lifecycle action found the lease held, and nobody kept
// the action alive.
func TestAnInstanceThatComesToWaitWhileItIsDrainedForANoticeIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("slow"), 10*time.Minute)
		h := w.handler()
		h.Policy.OnRebalanceRecommendation = true
		began := time.Now()
		time.AfterFunc(2*time.Minute, func() { w.enter("Terminating:Wait") })
		_, err := deliver(t, h, noticed(RebalanceRecommendation))
		require.NoError(t, err)
		last := began.Add(2 * time.Minute)
		for _, beat := range w.beats {
			require.Less(t, beat.at.Sub(last), w.hook.HeartbeatTimeout)
			require.Empty(t, beat.of.Token)
			last = beat.at
		}
		require.Less(t, time.Since(last), w.hook.HeartbeatTimeout)
		require.Empty(t, w.completed, "that is for who is sent the event")
	})
}

func TestANoticesDrainWithoutAHookOfOursKeepsNothingAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.state = "Terminating:Wait"
		w.faults["hook"] = []error{ErrNoHook}
		w.node.Add(web("web"), time.Minute)
		_, err := deliver(t, w.handler(), noticed(SpotInterruption))
		require.NoError(t, err)
		require.Empty(t, w.beats)
	})
}

// Found by the simulation, seeds 537, 2706 and 25888: a forged event of an instance in service opened the node in mid-drain.
func TestAnEventThatIsRejectedDoesNotOpenANodeThatIsClosedForANotice(t *testing.T) {
	for hook, effects := range map[string][]string{"": nil, "quiesce": {"restore node-i-0abc1234"}} {
		synctest.Test(t, func(t *testing.T) {
			w := back()
			w.marks[0].Hook = hook
			report, err := invoke(t, w.handler())
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status)
			require.Equal(t, effects, w.effects())
		})
	}
}

// releasing is an escort that is asked to give back what one before it took.
type releasing struct {
	unasked
	world *world
}

func (r releasing) Undo(_ context.Context, p drain.EscortRequest) error {
	return r.world.do("give back " + p.Name)
}

// Found by the simulation, seed 2403: a slice crashed while a pooler was paused, the next could not cordon, and the group retained the
// instance, pooler and all.
func TestPodsOfARetainedInstanceGetBackWhatEscortsTookAndItsNodeStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := back()
		w.state = "Terminating:Retained"
		paused := web("paused")
		require.NoError(t, w.records.SetRecord(t.Context(), "uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		w.node.Add(paused, 0).Add(web("web"), 0)
		h, _ := w.inQueue()
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: releasing{world: w}}}
		require.Zero(t, swept(t, h).Restored)
		require.Equal(t, []string{"own", "give back paused", "release"}, w.effects())
	})
}

// Found by the simulation, seeds 21667 and 44534: a slice that ended just before the notice's deadline was followed by none.
func TestASliceThatBeginsAfterANoticesDeadlineNamesWhoIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		stuck := web("stuck")
		stuck.Labels = map[string]string{"budget": "b"}
		w.node.Add(stuck, time.Second).Allow("b", 0)
		record := noticed(SpotInterruption)
		time.Sleep(spotTime + time.Second)
		report, err := deliver(t, w.handler(), record)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Len(t, report.Pods, 1)
		require.True(t, time.Now().Before(record.Termination.Began.Add(spotTime+spotReserve)))
	})
}
