package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/postgres"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
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

func TestNewHandler_Triggers_AreConfigured(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	for settings, want := range map[string][2]bool{
		"":                                    {},
		"drain: {onSpotInterruption: true}\n": {true, false},
		"drain: {onRebalanceRecommendation: true}\n": {false, true},
	} {
		handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"+settings))
		require.NoError(t, err)
		require.Equal(t, want, [2]bool{handler.Policy.OnSpotInterruption, handler.Policy.OnRebalanceRecommendation}, settings)
	}
}

func TestNewHandler_Groups_AreOursByNameGlobAndTag(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	owned := map[string]string{"k8s.io/cluster/prod": "owned"}
	for groups, want := range map[string]struct {
		names      []string
		byTag      bool
		tag, named bool // whether they are ours
	}{
		"workers-a":                          {[]string{"workers-a"}, false, false, true},
		"workers-*":                          {nil, false, false, true},
		`{tag: "k8s.io/cluster/prod=owned"}`: {nil, true, true, false},
	} {
		handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: ["+groups+"]\nmode: drain\n"))
		require.NoError(t, err)
		p := handler.Policy
		require.Equal(t, want.names, p.GroupNames, groups)
		require.Equal(t, want.byTag, p.GroupsByTag, groups)
		require.Equal(t, want.tag, p.Owns("eks-1", owned), groups)
		require.Equal(t, want.named, p.Owns("workers-a", nil), groups)
	}
}

func TestNewHandler_ManageHooks_HooksAreThoseOfTheStack(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	for settings, want := range map[string]termination.Policy{
		"": {HeartbeatTimeout: 20 * time.Minute, OnFailure: termination.Continue, ManagedBy: "quiesce-prod"},
		"lifecycle: {manageHooks: true, onFailure: ABANDON}\nstack: {name: drains}\ndrain: {maxDuration: 40h}\n": {
			HeartbeatTimeout: 24*time.Minute + 10*time.Second, OnFailure: termination.Abandon, ManagedBy: "drains", ManageHooks: true,
		},
	} {
		handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"+settings))
		require.NoError(t, err)
		p := handler.Policy
		require.Equal(t, want, termination.Policy{
			HeartbeatTimeout: p.HeartbeatTimeout, OnFailure: p.OnFailure, ManagedBy: p.ManagedBy, ManageHooks: p.ManageHooks,
		})
	}
}

func TestNewHandler_Build_IsTold(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	version, commit = "1.2.3", "abcdef0"
	t.Cleanup(func() { version, commit = "dev", "unknown" })
	handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"))
	require.NoError(t, err)
	require.Equal(t, "1.2.3 abcdef0", handler.Version+" "+handler.Commit)
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

// The password of Patroni's HTTP interface is for members in the Secret's namespace, and not for consoles.
func TestNewHandler_RESTSecret_IsForItsNamespaceOnly(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	const file = "autoScalingGroups: [workers-a]\nmode: drain\nphases: [{name: databases, escort: {postgres: {connectVia: podIP%s}}}]\n"
	for settings, want := range map[string]bool{"": false, ", restSecretRef: {namespace: db, name: demo}": true} {
		handler, err := newHandler(t.Context(), environment(t, fmt.Sprintf(file, settings)))
		require.NoError(t, err)
		rest := handler.Drainer.Phases[0].Escort.(*postgres.Escort).Asker.(postgres.REST)
		require.Equal(t, want, rest.Logins != nil)
		if !want {
			continue
		}
		for _, err := range rest.Logins(t.Context(), "other") {
			require.ErrorContains(t, err, "credentials are for namespace db, not other")
		}
	}
}

// The phase of databases is off unless it is written. What it connects to depends on where the function stands.
func TestNewHandler_PhaseWithPostgres_HasItsEscort(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-1")
	handler, err := newHandler(t.Context(), environment(t, "autoScalingGroups: [workers-a]\nmode: drain\n"))
	require.NoError(t, err)
	require.Nil(t, handler.Primaries)
	const phases = "autoScalingGroups: [workers-a]\nmode: drain\nphases: [{name: databases, escort: {postgres: {%s}}}, " +
		"{name: poolers, match: {namespaces: [db, \"team-*\"]}, escort: {pgbouncer: {secretRef: {namespace: pool, name: s}}}}]\n"
	for settings, want := range map[string]struct{ direct, keeps bool }{
		"":                   {false, true},
		"connectVia: podIP":  {true, true},
		"strategy: plain":    {false, false},
		"strategy: operator": {false, true},
	} {
		getenv := environment(t, fmt.Sprintf(phases, settings))
		handler, err := newHandler(t.Context(), getenv)
		require.NoError(t, err)
		phase := handler.Drainer.Phases[0]
		e, is := phase.Escort.(*postgres.Escort)
		require.True(t, is)
		require.Equal(t, wire.Primaries{e}, handler.Primaries)
		require.Nil(t, e.Remind, "no queue")
		require.Equal(t, want.keeps, phase.Keeps)
		require.Equal(t, want.keeps && settings != "strategy: operator", phase.DelaysCordon != nil, "an operator acts on the cordon")
		require.Positive(t, phase.Lead)
		require.Equal(t, []string{"db", "pool"}, e.PoolerNamespaces)
		require.Equal(t, "pool", e.Secret.Namespace, "the poolers' login")
		require.Equal(t, want.direct, e.Asker != nil)
		require.Equal(t, want.direct, e.Clusters(nil).(*postgres.Observer).Get != nil)
		require.True(t, e.IsPooler(drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}))
		require.False(t, e.IsPooler(drain.Pod{Labels: map[string]string{"app": "web"}}))
		handler, err = newHandler(t.Context(), func(key string) string {
			if key == "QUIESCE_QUEUE_URL" {
				return "https://sqs.eu-west-1.amazonaws.com/111122223333/queue"
			}
			return getenv(key)
		})
		require.NoError(t, err)
		require.NotNil(t, handler.Drainer.Phases[0].Escort.(*postgres.Escort).Remind)
	}
}
