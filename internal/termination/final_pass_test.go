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

// invokeLate runs an invocation of 20 s, so long after its deadline, that continues the drain of one that crashed.
func invokeLate(t *testing.T, h *Handler, late time.Duration) (Report, error) {
	t.Helper()
	return invokeLateFor(t, h, late, 20*time.Second)
}

func invokeLateFor(t *testing.T, h *Handler, late, takes time.Duration) (Report, error) {
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
func TestFinalPass_StartsAfterDeadline_SignalsRemainingPods(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		env.node.Add(web("other"), time.Second)
		report, err := invokeLate(t, h, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		for _, pod := range report.Pods {
			require.NotEqual(t, drain.Remained, pod.Outcome, pod.Name)
		}
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestFinalPass_ForceOff_NamesRemainingPods(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		h.Policy.Force = false
		report, err := invokeLate(t, h, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Len(t, report.Pods, 1)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// Found by the simulation, seed 300.
func TestFinalPass_StepFails_RetriedForAMinute(t *testing.T) {
	for _, step := range []string{"connect", "watch"} {
		for late, completed := range map[time.Duration][]Result{lateRetryTime / 2: nil, 2 * lateRetryTime: {Abandon}} {
			bubble.Test(t, func(t *testing.T) {
				env, h := blockedEnv(2 * time.Second)
				env.errors[step] = []error{errors.New("throttled")}
				_, err := invokeLate(t, h, late)
				require.Equal(t, completed == nil, err != nil, step)
				require.Equal(t, completed, env.completed, step)
			})
		}
	}
}

// Found by the simulation, seed 640: invocations shorter than a final pass started it again for ever.
func TestFinalPass_ShortInvocation_EndsBeforeIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		h.Policy.Force = false
		report, err := invokeLateFor(t, h, 10*time.Second, handOffReserve+finalPassTime/2)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}
