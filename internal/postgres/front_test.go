package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

func TestHostLeads_ServiceNamesAndAddresses(t *testing.T) {
	leading := []escort.Service{{Namespace: "db", Name: "pg", Addresses: []string{"10.98.0.10", "fd00::10"}}}
	for host, want := range map[string]bool{
		"pg": true, "PG": true, "pg.db": true, "pg.db.svc": true, "pg.db.svc.cluster.local": true, "pg.db.svc.cluster.local.": true,
		"10.98.0.10": true, "fd00::10": true, "10.0.0.10": true, "other, pg": true,
		"": false, "pg.other": false, "pg.db.example.com": false, "pg-replicas": false, "10.98.0.1": false, "xpg": false, ",": false,
	} {
		require.Equal(t, want, hostLeads(host, "db", "10.0.0.10", leading), host)
	}
	require.False(t, hostLeads("pg", "web", "10.0.0.10", leading), "a short name is one of the pooler's namespace")
	require.True(t, hostLeads("pg.db", "web", "10.0.0.10", leading))
	require.False(t, hostLeads("", "db", "", leading), "a Unix socket, and a leader without an address")
}

func TestLeadsOnlyTo_ServicesOfReplicasToo_AreNot(t *testing.T) {
	require.True(t, leadsOnlyTo(escort.Service{Ready: []string{"10.0.0.10"}}, "10.0.0.10"))
	require.False(t, leadsOnlyTo(escort.Service{}, "10.0.0.10"))
	require.False(t, leadsOnlyTo(escort.Service{Ready: []string{"10.0.0.10", "10.0.0.11"}}, "10.0.0.10"))
}

func TestBelongs_LabelsOfOperators(t *testing.T) {
	identity := Identity{Namespace: "db", Cluster: "pg"}
	type labels = map[string]string
	for name, c := range map[string]struct {
		labels, annotations labels
		namespace           string
		want                bool
	}{
		"Zalando":               {labels: labels{"connection-pooler": "pg-pooler", "cluster-name": "pg"}, want: true},
		"Zalando's for replica": {labels: labels{"connection-pooler": "pg-pooler-repl", "cluster-name": "pg", "spilo-role": "replica"}},
		"another cluster":       {labels: labels{"connection-pooler": "x-pooler", "cluster-name": "x"}},
		"CloudNativePG":         {labels: labels{"cnpg.io/poolerName": "pg-rw", "cnpg.io/cluster": "pg"}, want: true},
		"Crunchy":               {labels: labels{"postgres-operator.crunchydata.com/cluster": "pg"}, want: true},
		"annotated":             {annotations: labels{DatabaseAnnotation: "pg"}, want: true},
		"annotated, elsewhere":  {annotations: labels{DatabaseAnnotation: "db/pg"}, namespace: "web", want: true},
		"a name elsewhere":      {annotations: labels{DatabaseAnnotation: "pg"}, namespace: "web"},
		"labels elsewhere":      {labels: labels{"postgres-operator.crunchydata.com/cluster": "pg"}, namespace: "web"},
		"no labels":             {},
	} {
		p := escort.Pod{}
		p.Namespace, p.Labels, p.Annotations = "db", c.labels, c.annotations
		if c.namespace != "" {
			p.Namespace = c.namespace
		}
		require.Equal(t, c.want, belongs(p, identity), name)
	}
}

func TestReadMark_NotOurs_IsAnError(t *testing.T) {
	good := mark{Namespace: "db", Cluster: "pg", Poolers: []markedPooler{{refOf("a"), []string{"app"}, "15"}}}
	read, err := readMark(good.text())
	require.NoError(t, err)
	require.Equal(t, good, *read)
	many := mark{Poolers: []markedPooler{{refOf("a"), make([]string, maxDatabases+1), ""}}}
	nameless := mark{Poolers: []markedPooler{{Databases: []string{"app"}}}}
	for _, text := range []string{"", "no", "[]", `{"poolers": 1}`, many.text(), nameless.text(), mark{Poolers: make([]markedPooler, maxPoolers+1)}.text()} {
		_, err := readMark(text)
		require.ErrorIs(t, err, errMark, text)
	}
}
