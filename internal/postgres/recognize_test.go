package postgres

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// status4 is what Patroni 4.0.7 writes on a pod, and status3 what 3.0.2 does.
const (
	status4 = `{"conn_url":"postgres://10.99.0.11:5432/postgres","api_url":"http://10.99.0.11:8008/patroni","state":"running","role":"primary",` +
		`"version":"4.0.7","xlog_location":67109192,"timeline":2}`
	status3 = `{"conn_url":"postgres://10.99.0.12:5432/postgres","api_url":"https://10.99.0.12:8009/patroni","state":"running","role":"master",` +
		`"version":"3.0.2","xlog_location":50331976,"timeline":1,"tags":{"nofailover":true}}`
)

var settings = Settings{Postgres: config.Postgres{Strategy: config.StrategySwitchover, MaxLag: 16 << 20, ScopeLabel: "cluster-name"}}

func pod(labels map[string]string, status string) drain.Pod {
	p := drain.Pod{Ref: drain.Ref{Namespace: "db", Name: "anything-0", UID: "u"}, Labels: labels}
	if status != "" {
		p.Annotations = map[string]string{escort.PatroniStatus: status}
	}
	return p
}

func crunchy(instance string) map[string]string {
	const prefix = "postgres-operator.crunchydata.com/"
	return map[string]string{prefix + "cluster": "hippo", prefix + "instance": instance, prefix + "patroni": "hippo-ha", prefix + "role": "master"}
}

func TestRecognize_Members_ByWhatTheOperatorWrites(t *testing.T) {
	stackGres := map[string]string{
		"app": "StackGresCluster", "stackgres.io/cluster": "true", "stackgres.io/cluster-name": "stack", "stackgres.io/cluster-scope": "stack-1",
	}
	without := maps.Clone(stackGres)
	delete(without, "stackgres.io/cluster-scope")
	for name, c := range map[string]struct {
		pod  drain.Pod
		want Identity
	}{
		"Zalando": {
			pod(map[string]string{"application": "spilo", "cluster-name": "acid-demo", "spilo-role": "master"}, ""),
			Identity{Operator: Zalando, Cluster: "acid-demo", Scope: "acid-demo", Members: map[string]string{"application": "spilo", "cluster-name": "acid-demo"}},
		},
		"StackGres": {pod(stackGres, status4), Identity{Operator: StackGres, Cluster: "stack", Scope: "stack-1", Members: map[string]string{
			"app": "StackGresCluster", "stackgres.io/cluster": "true", "stackgres.io/cluster-name": "stack",
		}}},
		"StackGres without a label of its scope": {pod(without, status4), Identity{Operator: StackGres, Cluster: "stack", Scope: "stack", Members: map[string]string{
			"app": "StackGresCluster", "stackgres.io/cluster": "true", "stackgres.io/cluster-name": "stack",
		}}},
		"Crunchy": {pod(crunchy("hippo-00-abcd"), status3), Identity{
			Operator: Crunchy, Cluster: "hippo", Scope: "hippo-ha", Members: map[string]string{"postgres-operator.crunchydata.com/cluster": "hippo"},
		}},
		"CloudNativePG": {
			pod(map[string]string{"cnpg.io/cluster": "pg", "cnpg.io/podRole": "instance", "cnpg.io/instanceName": "pg-1"}, ""),
			Identity{Operator: CloudNativePG, Cluster: "pg", Members: map[string]string{"cnpg.io/cluster": "pg", "cnpg.io/podRole": "instance"}},
		},
		"plain Patroni": {
			pod(map[string]string{"app": "x", "cluster-name": "demo", "role": "primary"}, status4),
			Identity{Operator: Patroni, Cluster: "demo", Scope: "demo", Members: map[string]string{"cluster-name": "demo"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Namespace = "db"
			got, member := settings.Recognize(c.pod)
			require.True(t, member)
			require.Equal(t, c.want, got)
		})
	}
}

func TestRecognize_ScopeLabelConfigured_IsTheOneThatCounts(t *testing.T) {
	other := settings
	other.ScopeLabel = "example.com/cluster"
	labels := map[string]string{"example.com/cluster": "demo", "cluster-name": "another"}
	got, member := other.Recognize(pod(labels, status4))
	require.True(t, member)
	require.Equal(t, "demo", got.Scope)
	labels["application"] = "spilo"
	got, member = other.Recognize(pod(labels, ""))
	require.True(t, member)
	require.Equal(t, Zalando, got.Operator)
	require.Equal(t, "db/demo", got.String())
}

func TestRecognize_OtherPods_AreNoMembers(t *testing.T) {
	annotated := func(value string) drain.Pod {
		p := pod(map[string]string{"application": "spilo", "cluster-name": "demo"}, "")
		p.Annotations = map[string]string{escort.Annotation: value}
		return p
	}
	for name, p := range map[string]drain.Pod{
		"a name alone":                    pod(nil, ""),
		"Patroni's status without labels": pod(nil, status4),
		"Zalando's pooler": pod(map[string]string{
			"application": "db-connection-pooler", "cluster-name": "acid-demo", "connection-pooler": "acid-demo-pooler",
		}, ""),
		"CloudNativePG's pooler":            pod(map[string]string{"cnpg.io/cluster": "pg", "cnpg.io/podRole": "pooler"}, ""),
		"Crunchy's pooler":                  pod(map[string]string{"postgres-operator.crunchydata.com/cluster": "hippo", "postgres-operator.crunchydata.com/role": "pgbouncer"}, ""),
		"Citus":                             pod(map[string]string{"cluster-name": "demo", "citus-group": "0"}, status4),
		"another status":                    pod(map[string]string{"cluster-name": "demo"}, `{"phase":"ok"}`),
		"a status that is cut":              pod(map[string]string{"cluster-name": "demo"}, status4[:100]),
		"no name of an object":              pod(map[string]string{"application": "spilo", "cluster-name": "Demo_1"}, ""),
		"a path":                            pod(map[string]string{"application": "spilo", "cluster-name": "../x"}, ""),
		"a scope that makes names too long": pod(map[string]string{"application": "spilo", "cluster-name": strings.Repeat("x", 64)}, ""),
		"opted out":                         annotated(escort.None),
		"said to be a pooler":               annotated("pgbouncer"),
	} {
		t.Run(name, func(t *testing.T) {
			_, member := settings.Recognize(p)
			require.False(t, member)
		})
	}
}

func TestRecognize_Annotated_NeedsOnlyTheScopeLabel(t *testing.T) {
	p := pod(map[string]string{"cluster-name": "demo"}, "")
	p.Annotations = map[string]string{escort.Annotation: Kind}
	got, member := settings.Recognize(p)
	require.True(t, member)
	require.Equal(t, Patroni, got.Operator)
}

func TestDelaysCordon_OperatorAnswersCordon_OnlyForPrimaries(t *testing.T) {
	delays := DelaysCordon(config.Phase{Postgres: &settings.Postgres})
	zalando := map[string]string{"application": "spilo", "cluster-name": "demo", "spilo-role": "master"}
	cnpg := map[string]string{"cnpg.io/cluster": "pg", "cnpg.io/podRole": "instance", "cnpg.io/instanceRole": "primary"}
	instance := func(version string) drain.Pod {
		p := pod(cnpg, "")
		p.Annotations = map[string]string{"cnpg.io/operatorVersion": version}
		return p
	}
	require.True(t, delays(pod(zalando, "")))
	require.True(t, delays(instance("1.30.0")))
	for _, unknown := range []string{"", "1.28.3", "1.31.0"} {
		require.False(t, delays(instance(unknown)), "its operator moves the primary, when the node is cordoned: %q", unknown)
	}
	operator := settings.Postgres
	operator.Strategy = config.StrategyOperator
	require.Nil(t, DelaysCordon(config.Phase{Postgres: &operator}))
	require.False(t, delays(pod(map[string]string{"cluster-name": "demo", "role": "primary"}, status4)), "plain Patroni does not")
	zalando["spilo-role"], cnpg["cnpg.io/instanceRole"] = "replica", "unhealthy"
	require.False(t, delays(pod(zalando, "")))
	require.True(t, delays(instance("1.30.0")), "it may lead again until another one leads")
	cnpg["cnpg.io/instanceRole"] = "replica"
	require.False(t, delays(instance("1.30.0")))
}

func TestMatch_TakesMembersOnly_WithinThePhasesOwnMatch(t *testing.T) {
	all := Match(config.Phase{Postgres: &settings.Postgres})
	narrow := Match(config.Phase{Postgres: &settings.Postgres, Match: config.Match{Namespaces: config.Globs{"other"}}})
	member := pod(map[string]string{"application": "spilo", "cluster-name": "demo"}, "")
	require.True(t, all(member))
	require.False(t, narrow(member))
	require.False(t, all(pod(map[string]string{"app": "web"}, "")))
}
