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

// lateSlice is an invocation of 20 s that goes on, so long after its deadline, with what one that crashed left behind.
func lateSlice(t *testing.T, h *Handler, late time.Duration) (Report, error) {
	t.Helper()
	return lateSliceOf(t, h, late, 20*time.Second)
}

func lateSliceOf(t *testing.T, h *Handler, late, takes time.Duration) (Report, error) {
	t.Helper()
	old := event
	old.Began = time.Now()
	h.Parse = func([]byte) Delivery {
		return Delivery{Records: []Record{{Termination: &old, FirstReceived: old.Began}}}
	}
	bounds := h.Policy.Bounds
	time.Sleep(bounds.MaxDuration - bounds.CompletionReserve + late)
	ctx, cancel := context.WithTimeout(t.Context(), takes)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	return answer.(Report), err
}

// Found by the simulation, seed 269.
func TestASliceThatBeginsAfterTheDeadlineStillTellsWhoRemainsToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		w.node.Add(web("other"), time.Second)
		report, err := lateSlice(t, h, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		for _, pod := range report.Pods {
			require.NotEqual(t, drain.Remained, pod.Outcome, pod.Name)
		}
		require.Equal(t, []Result{Continue}, w.completed)
	})
}

func TestASliceThatBeginsAfterTheDeadlineNamesWhoIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		h.Policy.Force = false
		report, err := lateSlice(t, h, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Len(t, report.Pods, 1)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, []Result{Continue}, w.completed)
	})
}

// Found by the simulation, seed 300.
func TestARequestThatFailsAfterTheDeadlineIsTriedAgainButNotForEver(t *testing.T) {
	for late, completed := range map[time.Duration][]Result{lateRetryTime / 2: nil, 2 * lateRetryTime: {Abandon}} {
		synctest.Test(t, func(t *testing.T) {
			w, h := blocked(2 * time.Second)
			w.faults["cordon"] = []error{errors.New("throttled")}
			_, err := lateSlice(t, h, late)
			require.Equal(t, completed == nil, err != nil)
			require.Equal(t, completed, w.completed)
		})
	}
}

// Found by the simulation, seed 640: slices shorter than a last look began it anew for ever.
func TestALastLookEndsBeforeItsSliceDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(2 * time.Second)
		h.Policy.Force = false
		report, err := lateSliceOf(t, h, 10*time.Second, handOffReserve+finalPassTime/2)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, []Result{Continue}, w.completed)
	})
}
