package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
)

// environment returns the environment of a function with this configuration.
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

func TestPhases_Default_WorkloadsTakeTheRest(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"))
	require.NoError(t, err)
	phases := handler.Drainer.Phases
	pooler := drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}
	require.Equal(t, "poolers", phaseOf(t, phases, pooler))
	require.Equal(t, "critical", phaseOf(t, phases, drain.Pod{PriorityClass: "system-node-critical"}))
	require.Equal(t, "workloads", phaseOf(t, phases, drain.Pod{}))
}

// A phase whose pods only the escort recognizes has no match of its own. If that matched everything, the node would be empty before its
// poolers.
func TestPhases_EscortWithoutMatch_TakesOnlyPoolers(t *testing.T) {
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

func TestNewHandler_OnDeadline_IsConfigured(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	for configuration, force := range map[string]bool{
		"autoScalingGroups: [workers-a]\nmode: drain\n":                            true,
		"autoScalingGroups: [workers-a]\nmode: drain\ndrain: {onDeadline: keep}\n": false,
	} {
		handler, err := newHandler(t.Context(), environment(t, configuration))
		require.NoError(t, err)
		require.Equal(t, force, handler.Policy.Force)
		require.Equal(t, time.Minute, handler.Drainer.Phases[0].Lead, "the escort's timeout")
		require.Zero(t, handler.Drainer.Phases[1].Lead)
	}
}

func TestNewHandler_InvalidConfiguration_HasEveryError(t *testing.T) {
	_, err := newHandler(t.Context(), environment(t, "autoScalingGroups: []\nmode: drain\nmodus: shadow\n"))
	var errs config.Errors
	require.ErrorAs(t, err, &errs)
	require.Len(t, errs, 2)
}

func TestNewHandler_QueueURLs_AddQueues(t *testing.T) {
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

func TestNewHandler_ReportBucket_AddsTheArchive(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	settings := environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n")
	handler, err := newHandler(t.Context(), settings)
	require.NoError(t, err)
	require.Nil(t, handler.Archive)
	require.NotNil(t, handler.Metrics, "metrics are part of the log")
	handler, err = newHandler(t.Context(), func(key string) string {
		if key == "QUIESCE_REPORT_BUCKET" {
			return "reports"
		}
		return settings(key)
	})
	require.NoError(t, err)
	require.NotNil(t, handler.Archive)
}

// If every group has an exact name, a sweep describes only these groups.
func TestGroupNames_AnyGlob_None(t *testing.T) {
	require.Equal(t, []string{"workers-a", "workers-b"}, groupNames(config.Globs{"workers-a", "workers-b"}))
	require.Empty(t, groupNames(config.Globs{"workers-a", "batch-*"}))
}

// A pod of another namespace must not get the password, whatever its labels are.
func TestConsoleLogins_OtherNamespace_IsAnError(t *testing.T) {
	connect := func(context.Context) (*kube.Client, error) { return nil, errors.New("no connection") }
	for name, c := range map[string]struct {
		settings config.PGBouncer
		errs     map[string]string // by namespace; empty: no login and no error
	}{
		"a Secret": {
			config.PGBouncer{Secret: &config.SecretRef{Namespace: "db", Name: "pgbouncer-admin"}},
			map[string]string{"db": "no connection", "web": "credentials are for namespace db, not web"},
		},
		"Secrets Manager": {config.PGBouncer{SecretARN: "arn"}, map[string]string{"web": "credentials are for namespace pool-*, not web"}},
		"none":            {config.PGBouncer{}, map[string]string{"db": "", "web": ""}},
	} {
		phase := config.Phase{PGBouncer: &c.settings, Match: config.Match{Namespaces: config.Globs{"pool-*"}}}
		for namespace, want := range c.errs {
			var got string
			for _, err := range consoleLogins(phase, connect, aws.Config{})(t.Context(), namespace) {
				require.Error(t, err, name)
				got = err.Error()
			}
			require.Equal(t, want, got, name)
		}
	}
}
