package drain

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A tenant's pods may come and go as long as the drain lasts, each with large labels.
func TestState_PodsComeAndGo_MemoryIsBounded(t *testing.T) {
	phases := []Phase{{Name: "workloads"}}
	state := State{}.resume(phases)
	const atOnce = 1000
	come := func(generation int) Plan {
		plan := Plan{}
		for i := range atOnce {
			name := fmt.Sprintf("web-%d-%d", generation, i)
			plan.Pods = append(plan.Pods, Planned{Pod: Pod{Ref: Ref{Namespace: "app", Name: name, UID: name}, Labels: map[string]string{"x": "y"}}})
		}
		return plan
	}
	now := time.Now()
	for generation := range maxGonePods/atOnce + 3 {
		plan := come(generation)
		state.observe(plan, phases, now)
		for _, pod := range plan.Pods {
			state.pods[pod.Ref].planned = pod
		}
	}
	answer := Ref{Namespace: "app", Name: "web-12-0", UID: "web-12-0"}
	state.pods[answer].inFlight = true
	require.Len(t, state.observe(Plan{}, phases, now), atOnce, "each is logged")

	require.Len(t, state.pods, maxGonePods+1)
	require.Contains(t, state.pods, answer, "its response is to come")
	for _, p := range state.pods {
		require.Empty(t, p.planned.Labels)
	}
	for _, s := range []State{state, state.resume(phases)} {
		report := s.report(phases)
		require.Len(t, report.Pods, maxGonePods+1)
		require.Equal(t, 3*atOnce-1, report.OmittedPods)
	}
}
