package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
)

// environment is what Lambda gives the function, with this configuration beside it.
func environment(t *testing.T, configuration string) func(string) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, config.FileName), []byte(configuration), 0o600))
	settings := map[string]string{"LAMBDA_TASK_ROOT": root, "CLUSTER_NAME": "prod"}
	return func(key string) string { return settings[key] }
}

func phaseOf(t *testing.T, phases []drain.Phase, p drain.Pod) string {
	t.Helper()
	plan := drain.Make(drain.View{Pods: []drain.Pod{p}, Phases: phases, Clocks: make([]drain.Clock, len(phases))})
	return phases[plan.Pods[0].Phase].Name
}

func TestTheConfiguredPhasesTakeTheirPodsAndWorkloadsTheRest(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\n"))
	require.NoError(t, err)
	phases := handler.Drainer.Phases
	pooler := drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}
	require.Equal(t, "poolers", phaseOf(t, phases, pooler))
	require.Equal(t, "critical", phaseOf(t, phases, drain.Pod{PriorityClass: "system-node-critical"}))
	require.Equal(t, "workloads", phaseOf(t, phases, drain.Pod{}))
}

// A phase that is recognised by its escort has no match of its own: taking that for "everything" would empty the whole node
// before its poolers.
func TestAPhaseThatOnlyAnEscortRecognisesTakesNoOtherPods(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	handler, err := newHandler(t.Context(), environment(t, `autoScalingGroups: [workers-a]
phases:
  - {name: poolers, escort: {pgbouncer: {}}}
  - {name: workloads}
`))
	require.NoError(t, err)
	require.Equal(t, "workloads", phaseOf(t, handler.Drainer.Phases, drain.Pod{}))
}

func TestWhatBecomesOfPodsAtTheDeadlineIsConfigured(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	for configuration, force := range map[string]bool{
		"autoScalingGroups: [workers-a]\n":                             true,
		"autoScalingGroups: [workers-a]\ndrain: {onDeadline: leave}\n": false,
	} {
		handler, err := newHandler(t.Context(), environment(t, configuration))
		require.NoError(t, err)
		require.Equal(t, force, handler.Policy.Force)
		require.Equal(t, time.Minute, handler.Drainer.Phases[0].Lead, "what an escort of poolers may take")
		require.Zero(t, handler.Drainer.Phases[1].Lead)
	}
}

func TestABadConfigurationIsAnErrorThatHasEveryFault(t *testing.T) {
	_, err := newHandler(t.Context(), environment(t, "autoScalingGroups: []\nmodus: shadow\n"))
	var faults config.Faults
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults, 2)
}
