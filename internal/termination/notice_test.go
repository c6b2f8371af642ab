package termination

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// noticed is a notice of just now.
func noticed(n Notice) Record {
	return Record{Termination: &Termination{InstanceID: event.InstanceID, Began: time.Now(), Notice: n}}
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
		require.Equal(t, SpotInterruption, report.Notice)
		require.Equal(t, "workers-a", report.Group)
		require.Empty(t, report.Hook)
		require.Empty(t, report.Lifecycle)
		require.Empty(t, w.beats, "no hook waits")
		require.Equal(t, "in a hurry", report.Phases[0].Name)
	})
}

func TestASpotDrainEndsBeforeEC2Does(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := aSpotInstance()
		w.node.Add(web("stuck"), time.Hour)
		began := time.Now()
		report, err := deliver(t, w.handler(), noticed(SpotInterruption))
		require.NoError(t, err)
		require.Equal(t, StatusLeft, report.Status)
		require.Equal(t, drain.Left, report.Pods[0].Outcome)
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

		h.Policy.OnRebalance = true
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
			StatusSkipped, "is in no group of ours"},
		{"of a machine that is not Spot", func(w *world, _ *Handler) { w.spot = false }, 0, StatusRejected, "is no Spot instance"},
		{"of one that is gone", func(w *world, _ *Handler) { w.state = "" }, 0, StatusRejected, "nothing can be done"},
		{"of one that is past waiting", func(w *world, _ *Handler) { w.state = "Terminating:Proceed" }, 0, StatusRejected, "nothing can be done"},
		{"too late", func(*world, *Handler) {}, 101 * time.Second, StatusRejected, "too late"},
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
