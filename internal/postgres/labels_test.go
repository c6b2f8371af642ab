package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Without an escort, members are known by labels alone. Whoever is taken for a member by all that its operator writes is taken for one then.
func TestMatchLabels_MembersOfEachOperator_AreKnownWithoutAnnotations(t *testing.T) {
	match := MatchLabels(config.Phase{Postgres: &config.Postgres{ScopeLabel: "cluster-name"}})
	for text, want := range map[string]bool{
		"application=spilo,cluster-name=pg":                                           true,
		"app=StackGresCluster,stackgres.io/cluster=true,stackgres.io/cluster-name=pg": true,
		"postgres-operator.crunchydata.com/instance=a,postgres-operator.crunchydata.com/patroni=b,postgres-operator.crunchydata.com/cluster=pg": true,
		"cnpg.io/podRole=instance,cnpg.io/cluster=pg": true,
		"cluster-name=pg,role=master":                 true,
		"cluster-name=pg,role=replica":                true,
		"cluster-name=pg,role=pooler":                 false,
		"cluster-name=pg":                             false,
		"application=db-connection-pooler,cluster-name=pg,connection-pooler=pg-pooler": false,
		"cnpg.io/podRole=pooler,cnpg.io/cluster=pg":                                    false,
		"application=spilo,cluster-name=pg,citus-group=0":                              false,
		"app=web": false,
	} {
		p := drain.Pod{Ref: drain.Ref{Namespace: "db", Name: "pg-0"}, Labels: map[string]string{}}
		for pair := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(pair, "=")
			p.Labels[key] = value
		}
		require.Equal(t, want, match(p), text)
		p.Annotations = map[string]string{escort.Annotation: escort.None}
		require.False(t, match(p), "its owner wants no escort: %s", text)
	}
	narrow := MatchLabels(config.Phase{Postgres: &config.Postgres{ScopeLabel: "cluster-name"}, Match: config.Match{Namespaces: config.Globs{"prod"}}})
	require.False(t, narrow(memberPod("pg-0", "").Pod), "the phase's own match narrows it")
}
