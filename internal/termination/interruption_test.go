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

// noticed is a notice of just now.
func noticed(n Trigger) Record {
	return Record{Termination: &Termination{InstanceID: event.InstanceID, Began: time.Now(), Trigger: n}}
}

// aSpotInstance is in service.
func aSpotInstance() *world {
	w := newWorld()
	w.state, w.spot = "InService", true
	return w
}

func TestASpotInterruptionDrainsAndCompletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("web"), 5*time.Second)
		report, err := deliver(t, w.handler(), noticed(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, []string{"own", "cordon node-i-0abc1234", "evict app/web", "release"}, w.effects())
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, SpotInterruption, report.Trigger)
		require.Equal(t, "workers-a", report.Group)
		require.Empty(t, report.Hook)
		require.Empty(t, report.LifecycleResult)
		require.Empty(t, w.beats, "no hook waits")
	})
}

// bounded is an escort that keeps what it was asked.
type bounded struct {
	drain.Escort
	requests []drain.EscortRequest
}

func (b *bounded) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	b.requests = append(b.requests, r)
	return drain.EscortResult{}, r.Evict(ctx, drain.EvictOptions{})
}

// An instance that EC2 takes in two minutes has no time for a phase that is stuck, nor for a replacement.
func TestSpotInterruption_PhasesAndEscorts_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := aSpotInstance(), &bounded{}
		slow, next := web("slow"), web("next")
		slow.Labels = map[string]string{"phase": "poolers"}
		w.node.Add(slow, 50*time.Second).Add(next, time.Second)
		h := w.handler()
		isPooler := func(p drain.Pod) bool { return p.Labels["phase"] == "poolers" }
		h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: isPooler, Escort: b, Timeout: 5 * time.Minute}, {Name: "workloads"}}
		report, err := deliver(t, h, noticed(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, spotMaxWait, b.requests[0].MaxWait)
		require.Equal(t, spotMaxWait, report.Pods[1].EvictedAt.Sub(report.Pods[0].EvictedAt))
	})
}

func TestASpotDrainEndsBeforeEC2Does(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("stuck"), time.Hour)
		began := time.Now()
		report, err := deliver(t, w.handler(), noticed(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, 100*time.Second, time.Since(began))
	})
}

func TestARebalanceRecommendationIsHeededOnlyIfAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("slow"), 5*time.Minute)
		h := w.handler()
		report, err := deliver(t, h, noticed(RebalanceRecommendation))
		require.NoError(t, err)
		require.Equal(t, StatusSkipped, report.Status)
		require.Contains(t, report.Reason, "drain.onRebalanceRecommendation is off")
		require.Empty(t, w.effects())

		h.Policy.OnRebalanceRecommendation = true
		began := time.Now()
		report, err = deliver(t, h, noticed(RebalanceRecommendation))
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, began.Add(29*time.Minute+30*time.Second), report.Deadline, "there is time")
		require.Equal(t, "workloads", report.Phases[0].Name)
		require.Empty(t, w.completed)
		require.Empty(t, w.beats)
	})
}

// A notice is a claim. One that is forged must not drain a healthy node, and one that is stale cannot help any more.
func TestANoticeThatCannotBeTrueDrainsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*world, *Handler)
		after  time.Duration
		status Status
		says   string
	}{
		{"of another group", func(_ *world, h *Handler) { h.Policy.OwnsGroup = func(string) bool { return false } }, 0,
			StatusSkipped, "is not managed by quiesce"},
		{"of a machine that is not Spot", func(w *world, _ *Handler) { w.spot = false }, 0, StatusRejected, "is not a Spot instance"},
		{"of one that is gone", func(w *world, _ *Handler) { w.state = "" }, 0, StatusRejected, "already past draining"},
		{"of one that is past waiting", func(w *world, _ *Handler) { w.state = "Terminating:Proceed" }, 0, StatusRejected, "already past draining"},
		{"too late", func(*world, *Handler) {}, spotTime + spotReserve, StatusRejected, "too late"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := aSpotInstance()
			h := w.handler()
			c.change(w, h)
			record := noticed(SpotInterruption)
			time.Sleep(c.after)
			report, err := deliver(t, h, record)
			require.NoError(t, err, c.name)
			require.Equal(t, c.status, report.Status, c.name)
			require.Contains(t, report.Reason, c.says, c.name)
			require.Empty(t, w.effects(), c.name)
		})
	}
}

func TestANoticeThatCannotBeVerifiedNowComesAgain(t *testing.T) {
	for _, step := range []string{"group", "machines", "connect", "own"} {
		synctest.Test(t, func(t *testing.T) {
			w := aSpotInstance()
			w.faults[step] = []error{errors.New("no: " + step)}
			report, err := deliver(t, w.handler(), noticed(SpotInterruption))
			require.ErrorContains(t, err, "no: "+step)
			require.Equal(t, StatusFailed, report.Status)
			require.NotContains(t, w.effects(), "cordon node-i-0abc1234")
		})
	}
}

// Auto Scaling may have noticed as well, and its event be drained already.
func TestANoticeOfAnInstanceThatIsDrainedAlreadyComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.state, w.leased = "Terminating:Wait", true
		h, m := w.inQueue()
		record := noticed(SpotInterruption)
		record.MessageID, record.ReceiptHandle = "m-1", "m-1"
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record))
		require.Len(t, m.of("m-1"), 2)
	})
}

func TestInShadowModeANoticeIsPlanned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("web"), 0)
		h := w.handler()
		h.Policy.Shadow = true
		report, err := deliver(t, h, noticed(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusPlanned, report.Status)
		require.Len(t, report.Pods, 1)
		require.Empty(t, w.effects())
	})
}

// A drain for a lifecycle action has half an hour. A notice that comes for its instance finds the lease held.
func TestANoticeTellsWhoeverDrainsTheInstanceHowLittleTimeThereIs(t *testing.T) {
	for notice, told := range map[Trigger][]time.Duration{SpotInterruption: {spotTime, spotTime}, RebalanceRecommendation: nil} {
		synctest.Test(t, func(t *testing.T) {
			w := aSpotInstance()
			w.state, w.leased = "Terminating:Wait", true
			h, m := w.inQueue()
			h.Policy.OnRebalanceRecommendation = true
			record, began := noticed(notice), time.Now()
			record.MessageID, record.ReceiptHandle = "m-1", "m-1"
			require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record))
			require.Equal(t, []string{"m-1"}, deliverBatch(t, h, record), "that one may have ended without hearing it")
			var left []time.Duration
			for _, deadline := range w.hasty {
				left = append(left, deadline.Sub(began))
			}
			require.Equal(t, told, left)
			if notice == SpotInterruption {
				hides := m.of("m-1")
				require.Equal(t, spotDelay, hides[len(hides)-1].d)
			}
		})
	}
}

func TestADrainUnderWayThatHearsOfANoticeGoesOnInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		w.node.Add(web("quick"), time.Second)
		began := time.Now()
		heard := began.Add(2 * time.Minute)
		deadline := heard.Add(90 * time.Second)
		for _, at := range []time.Duration{0, 10 * time.Second, 20 * time.Second} { // each renewal
			time.AfterFunc(time.Until(heard)+at, func() { w.hasten(deadline) })
		}
		answer, err := h.Invoke(t.Context(), nil)
		report := answer.(Report)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Equal(t, SpotInterruption, report.Trigger)
		require.Equal(t, deadline, report.Deadline)
		require.False(t, time.Now().After(deadline))
		require.Equal(t, []Result{Continue}, w.completed)
		require.Len(t, report.Pods, 2, "who left before is not forgotten")
		for _, pod := range report.Pods {
			if pod.Name == "quick" {
				require.Equal(t, drain.Evicted, pod.Outcome)
				continue
			}
			require.Equal(t, drain.Forced, pod.Outcome)
			require.True(t, pod.ForcedAt.After(heard), "and not before time was short")
		}
		require.True(t, w.beats[len(w.beats)-1].at.After(heard), "the hook is kept alive all the while")
	})
}

// Found by the simulation, seed 4906: a slice that ended kept the next one from hearing in time.
func TestANoticeThatIsHeardALittleTooLateLeavesTimeForALastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		h.Policy.Force = false
		var heard time.Time
		time.AfterFunc(time.Minute, func() { heard = time.Now(); w.hasten(heard.Add(-5 * time.Second)) })
		answer, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, answer.(Report).Status)
		require.Len(t, answer.(Report).Pods, 1)
		require.WithinDuration(t, heard, time.Now(), finalPassTime)
	})
}

// A lease can outlive whom it was for: what is late or over does not shorten a drain.
func TestADeadlineThatIsNoEarlierOrIsOverChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		usual := time.Now().Add(h.Policy.Bounds.MaxDuration - h.Policy.Bounds.CompletionReserve)
		time.AfterFunc(time.Minute, func() { w.hasten(usual.Add(time.Second)) })
		time.AfterFunc(2*time.Minute, func() { w.hasten(time.Now().Add(-spotReserve)) })
		answer, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, usual, answer.(Report).Deadline)
		require.Empty(t, answer.(Report).Trigger)
	})
}
