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
	handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"))
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
mode: drain
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
		"autoScalingGroups: [workers-a]\nmode: drain\n":                            true,
		"autoScalingGroups: [workers-a]\nmode: drain\ndrain: {onDeadline: keep}\n": false,
	} {
		handler, err := newHandler(t.Context(), environment(t, configuration))
		require.NoError(t, err)
		require.Equal(t, force, handler.Policy.Force)
		require.Equal(t, time.Minute, handler.Drainer.Phases[0].Lead, "what an escort of poolers may take")
		require.Zero(t, handler.Drainer.Phases[1].Lead)
	}
}

func TestNewHandler_InvalidConfiguration_HasEveryError(t *testing.T) {
	_, err := newHandler(t.Context(), environment(t, "autoScalingGroups: []\nmode: drain\nmodus: shadow\n"))
	var errs config.Errors
	require.ErrorAs(t, err, &errs)
	require.Len(t, errs, 2)
}

func TestQueuesAreUsedWhereTheyAreNamed(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	settings := environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n")
	handler, err := newHandler(t.Context(), settings)
	require.NoError(t, err)
	require.Nil(t, handler.Queue)
	require.Nil(t, handler.DLQ)
	handler, err = newHandler(t.Context(), func(key string) string {
		switch key {
		case "QUIESCE_QUEUE_URL", "QUIESCE_DLQ_URL":
			return "https://sqs.eu-west-1.amazonaws.com/111122223333/" + key
		}
		return settings(key)
	})
	require.NoError(t, err)
	require.NotNil(t, handler.Queue)
	require.NotNil(t, handler.DLQ)
}

func TestReportsAreKeptWhereABucketIsNamed(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	settings := environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n")
	handler, err := newHandler(t.Context(), settings)
	require.NoError(t, err)
	require.Nil(t, handler.Archive)
	require.NotNil(t, handler.Metrics, "they are part of the log")
	handler, err = newHandler(t.Context(), func(key string) string {
		if key == "QUIESCE_REPORT_BUCKET" {
			return "reports"
		}
		return settings(key)
	})
	require.NoError(t, err)
	require.NotNil(t, handler.Archive)
}

// Where every group is named, a sweep asks for these and not for all that the account has.
func TestGroupsAreKnownByNameUnlessOneIsAGlob(t *testing.T) {
	require.Equal(t, []string{"workers-a", "workers-b"}, names(config.Globs{"workers-a", "workers-b"}))
	require.Empty(t, names(config.Globs{"workers-a", "batch-*"}))
}
