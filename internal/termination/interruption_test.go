package termination

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// triggered returns the record of a trigger that was sent just now.
func triggered(n Trigger) Record {
	return Record{Termination: &Termination{InstanceID: event.InstanceID, Began: time.Now(), Trigger: n}}
}

// spotEnv returns an environment whose instance is a Spot instance in service that EC2 is about to reclaim.
func spotEnv() *testEnv {
	env := newTestEnv()
	env.state, env.spot, env.interrupted, env.interruptedAt = "InService", true, true, time.Now()
	return env
}

func TestSpotInterruption_NoHookWaits_DrainedNotCompleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("web"), 5*time.Second)
		report, err := deliver(t, env.handler(), triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, []string{"acquire", "cordon node-i-0abc1234", "evict app/web", "volumes", "release"}, env.effects())
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, SpotInterruption, report.Trigger)
		require.Equal(t, "workers-a", report.Group)
		require.Empty(t, report.Hook)
		require.Empty(t, report.LifecycleResult)
		require.Empty(t, env.heartbeats, "no hook waits")
	})
}

// EC2 reclaims an instance whatever its group thinks of it. A recommendation is only advice, and Auto Scaling leaves these alone.
func TestInterruption_InstanceRunsOutOfService_OnlyASpotInterruptionDrains(t *testing.T) {
	for _, state := range outOfServiceStates {
		for trigger, want := range map[Trigger]Status{SpotInterruption: StatusDrained, RebalanceRecommendation: StatusRejected} {
			bubble.Test(t, func(t *testing.T) {
				env := spotEnv()
				env.state = state
				env.node.Add(web("web"), 5*time.Second)
				h := env.handler()
				h.Policy.OnRebalanceRecommendation = true
				report, err := deliver(t, h, triggered(trigger))
				require.NoError(t, err)
				require.Equal(t, want, report.Status, "%s, %s: %s", state, trigger, report.Reason)
			})
		}
	}
}

// requestRecorder is an escort that records its requests.
type requestRecorder struct {
	drain.Escort
	requests []drain.EscortRequest
}

func (b *requestRecorder) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	b.requests = append(b.requests, r)
	return drain.EscortResult{}, r.Evict(ctx, drain.EvictOptions{})
}

// An instance that EC2 reclaims in two minutes has no time for a phase that is stuck, nor for a replacement.
func TestSpotInterruption_PhasesAndEscorts_AreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, b := spotEnv(), &requestRecorder{}
		slow, next := web("slow"), web("next")
		slow.Labels = map[string]string{"phase": "poolers"}
		env.node.Add(slow, 50*time.Second).Add(next, time.Second)
		h := env.handler()
		isPooler := func(p drain.Pod) bool { return p.Labels["phase"] == "poolers" }
		h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: isPooler, Escort: b, Timeout: 5 * time.Minute}, {Name: "workloads"}}
		report, err := deliver(t, h, triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, spotMaxWait, b.requests[0].MaxWait)
		require.Equal(t, spotMaxWait, report.Pods[1].EvictedAt.Sub(report.Pods[0].EvictedAt))
	})
}

func TestSpotInterruption_StuckPod_EndsBeforeEC2Reclaims(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("stuck"), time.Hour)
		began := time.Now()
		report, err := deliver(t, env.handler(), triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, 100*time.Second, time.Since(began))
	})
}

func TestRebalanceRecommendation_Drained_OnlyIfConfigured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("slow"), 5*time.Minute)
		h := env.handler()
		report, err := deliver(t, h, triggered(RebalanceRecommendation))
		require.NoError(t, err)
		require.Equal(t, StatusSkipped, report.Status)
		require.Contains(t, report.Reason, "drain.onRebalanceRecommendation is off")
		require.Empty(t, env.effects())

		h.Policy.OnRebalanceRecommendation = true
		began := time.Now()
		report, err = deliver(t, h, triggered(RebalanceRecommendation))
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, began.Add(29*time.Minute+30*time.Second), report.Deadline, "the usual time")
		require.Equal(t, "workloads", report.Phases[0].Name)
		require.Empty(t, env.completed)
		require.Empty(t, env.heartbeats)
	})
}

// A trigger is a claim. A forged one must not drain a healthy node, and a stale one comes too late.
func TestInterruption_CannotBeTrue_DrainsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*testEnv, *Handler)
		after  time.Duration
		status Status
		says   string
	}{
		{"another group", func(_ *testEnv, h *Handler) { h.Policy.Owns = func(string, map[string]string) bool { return false } }, 0,
			StatusSkipped, "is not managed by quiesce"},
		{"not a Spot instance", func(env *testEnv, _ *Handler) { env.spot = false }, 0, StatusRejected, "is not a Spot instance"},
		{"an instance that is gone", func(env *testEnv, _ *Handler) { env.state = "" }, 0, StatusSkipped, "is not managed by quiesce"},
		{"an instance past the wait state", func(env *testEnv, _ *Handler) { env.state = "Terminating:Proceed" }, 0, StatusRejected, "is not drained in this state"},
		{"too late", func(*testEnv, *Handler) {}, spotTime + spotReserve, StatusRejected, "too late"},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := spotEnv()
			h := env.handler()
			c.change(env, h)
			record := triggered(SpotInterruption)
			time.Sleep(c.after)
			report, err := deliver(t, h, record)
			require.NoError(t, err, c.name)
			require.Equal(t, c.status, report.Status, c.name)
			require.Contains(t, report.Reason, c.says, c.name)
			require.Empty(t, env.effects(), c.name)
		})
	}
}

// A Spot interruption is a message like any other: a forged one closed a node in service, and force-deleted its pods within seconds.
func TestSpotInterruption_NotConfigured_Skipped(t *testing.T) {
	env := spotEnv()
	h := env.handler()
	h.Policy.OnSpotInterruption = false
	report, err := deliver(t, h, triggered(SpotInterruption))
	require.NoError(t, err)
	require.Equal(t, StatusSkipped, report.Status)
	require.Contains(t, report.Reason, "drain.onSpotInterruption is off")
	require.Empty(t, env.effects())
}

func TestSpotInterruption_EC2Denies_NothingWritten(t *testing.T) {
	for _, held := range []bool{false, true} {
		bubble.Test(t, func(t *testing.T) {
			env := spotEnv()
			env.interrupted, env.heldElsewhere = false, held
			began := time.Now()
			report, err := deliver(t, env.handler(), triggered(SpotInterruption))
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status)
			require.Contains(t, report.Reason, "EC2 does not confirm it")
			require.Equal(t, confirmTime, time.Since(began))
			require.Empty(t, env.effects())
			require.Empty(t, env.shortenedTo, "nor is a running drain's deadline shortened")
		})
	}
}

func TestSpotInterruption_EC2LagsOrFails_AskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.interrupted = false
		env.errors["spot"] = []error{errors.New("Throttling")}
		time.AfterFunc(5*time.Second, func() {
			env.mu.Lock()
			defer env.mu.Unlock()
			env.interrupted = true
		})
		report, err := deliver(t, env.handler(), triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)

		env = spotEnv()
		env.failAlways("spot", errors.New("AccessDenied"))
		report, err = deliver(t, env.handler(), triggered(SpotInterruption))
		require.ErrorContains(t, err, "AccessDenied")
		require.Equal(t, StatusFailed, report.Status)
		require.Empty(t, env.effects())
	})
}

// EC2's time counts, and not the event's own. Found by the simulation, seeds 11319 and 42264: a forged event before the true one had a pod
// deleted too early.
func TestSpotInterruption_EventsTime_DoesNotCount(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct{ claimed, marked, received, want time.Duration }{
		"true":                  {claimed: -8 * s, marked: -9 * s, want: -9 * s},
		"delivered late":        {claimed: -60 * s, marked: -60 * s, received: -s, want: -60 * s},
		"sent late":             {claimed: -s, marked: -60 * s, want: -60 * s},
		"dated tomorrow":        {claimed: 24 * time.Hour, marked: -9 * s, want: -9 * s},
		"dated back":            {claimed: -90 * s, marked: -9 * s, want: -9 * s},
		"dated back, too late":  {claimed: -time.Hour, marked: -9 * s, want: -9 * s},
		"received before EC2's": {claimed: -30 * s, marked: -9 * s, received: -30 * s, want: -9 * s},
		"EC2's clock is fast":   {claimed: 0, marked: 5 * s, want: 0},
		"EC2 does not say":      {claimed: -60 * s, received: -10 * s, want: -10 * s},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := spotEnv()
			env.node.Add(web("stuck"), time.Hour)
			record, now := triggered(SpotInterruption), time.Now()
			record.Termination.Began, record.FirstReceived = now.Add(c.claimed), now.Add(c.received)
			if env.interruptedAt = now.Add(c.marked); c.marked == 0 {
				env.interruptedAt = time.Time{}
			}
			report, err := deliver(t, env.handler(), record)
			require.NoError(t, err, name)
			require.Equal(t, now.Add(c.want+spotTime), report.Deadline, name)
		})
	}
}

// Found by the simulation, seed 42264: the last request for a confirmation failed because its time was over, and the event came again.
func TestSpotInterruption_LastRequestTimesOut_Rejected(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.interrupted = false
		time.AfterFunc(confirmTime-confirmPace/2, func() {
			env.mu.Lock()
			defer env.mu.Unlock()
			env.hangs = map[string]bool{"spot": true}
		})
		h := env.handler()
		h.Groups = slowSpot{env}
		report, err := deliver(t, h, triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Empty(t, env.effects())
	})
}

// slowSpot answers about Spot requests after a while, or not at all.
type slowSpot struct{ *testEnv }

func (s slowSpot) SpotInterrupted(ctx context.Context, id string) (time.Time, bool, error) {
	if err := drain.Sleep(ctx, confirmPace/4); err != nil {
		return time.Time{}, false, err
	}
	return s.testEnv.SpotInterrupted(ctx, id)
}

// A recommendation that claims to be old would leave its pods seconds.
func TestRebalanceRecommendation_DatedBack_FirstReceiptCounts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		h := env.handler()
		h.Policy.OnRebalanceRecommendation = true
		record, now := triggered(RebalanceRecommendation), time.Now()
		record.Termination.Began, record.FirstReceived = now.Add(-29*time.Minute), now
		report, err := deliver(t, h, record)
		require.NoError(t, err)
		require.Equal(t, now.Add(29*time.Minute+30*time.Second), report.Deadline)
	})
}

func TestInterruption_StepFails_Retried(t *testing.T) {
	for _, step := range []string{"instance", "ec2", "connect"} {
		bubble.Test(t, func(t *testing.T) {
			env := spotEnv()
			env.errors[step] = []error{errors.New("no: " + step)}
			report, err := deliver(t, env.handler(), triggered(SpotInterruption))
			require.ErrorContains(t, err, "no: "+step)
			require.Equal(t, StatusFailed, report.Status)
			require.NotContains(t, env.effects(), "cordon node-i-0abc1234")
		})
	}
}

// Auto Scaling may have sent its own event, whose drain is running.
func TestInterruption_InstanceAlreadyDrained_Retried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.state, env.heldElsewhere = "Terminating:Wait", true
		h, m := env.withQueue()
		record := triggered(SpotInterruption)
		record.MessageID, record.ReceiptHandle = "m-1", "m-1"
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record))
		require.Len(t, m.hidesOf("m-1"), 2)
	})
}

func TestInterruption_ShadowMode_OnlyPlanned(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := spotEnv()
		env.node.Add(web("web"), 0)
		h := env.handler()
		h.Policy.Shadow = true
		report, err := deliver(t, h, triggered(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusPlanned, report.Status)
		require.Len(t, report.Pods, 1)
		require.Empty(t, env.effects())
	})
}

func TestManualDrain_ShadowMode_OnlyPlanned(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = inService
		env.node.Add(web("web"), 0)
		h := env.handler()
		h.Policy.Shadow, h.Policy.AllowManualDrain = true, true
		report, err := deliver(t, h, Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}})
		require.NoError(t, err)
		require.Equal(t, StatusPlanned, report.Status)
		require.Len(t, report.Pods, 1)
		require.Empty(t, env.effects())
	})
}

// A drain for a lifecycle action has half an hour. The Spot interruption of its instance finds the lease held.
func TestSpotInterruption_DrainRunning_PassesItsDeadline(t *testing.T) {
	for trigger, want := range map[Trigger][]time.Duration{SpotInterruption: {spotTime, spotTime}, RebalanceRecommendation: nil} {
		bubble.Test(t, func(t *testing.T) {
			env := spotEnv()
			env.state, env.heldElsewhere = "Terminating:Wait", true
			h, m := env.withQueue()
			h.Policy.OnRebalanceRecommendation = true
			record, began := triggered(trigger), time.Now()
			record.MessageID, record.ReceiptHandle = "m-1", "m-1"
			require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record))
			require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record), "the holder may have ended without reading the deadline")
			var got []time.Duration
			for _, deadline := range env.shortenedTo {
				got = append(got, deadline.Sub(began))
			}
			require.Equal(t, want, got)
			if trigger == SpotInterruption {
				hides := m.hidesOf("m-1")
				require.Equal(t, spotDelay, hides[len(hides)-1].d)
			}
		})
	}
}

func TestShortenedDeadline_DrainRunning_ContinuesUnderIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		env.node.Add(web("quick"), time.Second)
		began := time.Now()
		shortened := began.Add(2 * time.Minute)
		deadline := shortened.Add(90 * time.Second)
		for _, at := range []time.Duration{0, 10 * time.Second, 20 * time.Second} { // at each renewal of the Lease
			time.AfterFunc(time.Until(shortened)+at, func() { env.shortenDeadline(deadline) })
		}
		answer, err := h.Invoke(t.Context(), nil)
		report := answer.(Report)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Equal(t, SpotInterruption, report.Trigger)
		require.Equal(t, deadline, report.Deadline)
		require.False(t, time.Now().After(deadline))
		require.Equal(t, []Result{Continue}, env.completed)
		require.Len(t, report.Pods, 2, "pods that went before are still in the report")
		for _, pod := range report.Pods {
			if pod.Name == "quick" {
				require.Equal(t, drain.Evicted, pod.Outcome)
				continue
			}
			require.Equal(t, drain.Forced, pod.Outcome)
			require.True(t, pod.ForcedAt.After(shortened), "not before the deadline was shortened")
		}
		require.True(t, env.heartbeats[len(env.heartbeats)-1].at.After(shortened), "the hook is kept alive meanwhile")
	})
}

// Found by the simulation, seed 4906: an invocation that ended kept the next one from reading the deadline in time.
func TestShortenedDeadline_JustOver_LeavesAFinalPass(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		h.Policy.Force = false
		var shortened time.Time
		time.AfterFunc(time.Minute, func() { shortened = time.Now(); env.shortenDeadline(shortened.Add(-5 * time.Second)) })
		answer, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, answer.(Report).Status)
		require.Len(t, answer.(Report).Pods, 1)
		require.WithinDuration(t, shortened, time.Now(), finalPassTime)
	})
}

// A Lease can outlive the drain that it was meant for. A deadline on it that is late or over shortens nothing.
func TestShortenedDeadline_LaterOrLongOver_ChangesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		usual := time.Now().Add(h.Policy.Bounds.MaxDuration - h.Policy.Bounds.CompletionReserve)
		time.AfterFunc(time.Minute, func() { env.shortenDeadline(usual.Add(time.Second)) })
		time.AfterFunc(2*time.Minute, func() { env.shortenDeadline(time.Now().Add(-spotReserve)) })
		answer, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, usual, answer.(Report).Deadline)
		require.Empty(t, answer.(Report).Trigger)
	})
}
