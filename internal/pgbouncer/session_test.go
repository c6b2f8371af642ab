package pgbouncer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheConsoleIsWhereTheConfigurationOrThePodSays(t *testing.T) {
	exporter := Container{Name: "exporter", Image: "registry:5000/exporter:1", Ports: []Port{{"metrics", 9127}}}
	for name, c := range map[string]struct {
		configured int
		pod        Pod
		want       int
	}{
		"as configured":          {7000, Pod{Containers: []Container{{Name: "pgbouncer", Ports: []Port{{"psql", 5432}}}}}, 7000},
		"by the port's name":     {0, Pod{Containers: []Container{{Name: "pgbouncer", Ports: []Port{{"metrics", 9127}, {"psql", 5432}}}}}, 5432},
		"the only port":          {0, Pod{Containers: []Container{exporter, {Name: "pgbouncer", Ports: []Port{{"", 6543}}}}}, 6543},
		"by the image":           {0, Pod{Containers: []Container{exporter, {Name: "main", Image: "r:5000/a/pgbouncer:1", Ports: []Port{{"", 6000}}}}}, 6000},
		"Zalando's container":    {0, Pod{Containers: []Container{exporter, {Name: "connection-pooler", Ports: []Port{{"", 5433}}}}}, 5433},
		"the first container":    {0, Pod{Containers: []Container{{Name: "main", Ports: []Port{{"", 5434}}}, exporter}}, 5434},
		"as the chart has it":    {0, Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}, 5432},
		"several without a name": {0, Pod{Containers: []Container{{Name: "pgbouncer", Ports: []Port{{"a", 1}, {"b", 2}}}}}, defaultPort},
		"nothing is known":       {0, Pod{}, defaultPort},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, consolePort(c.configured, c.pod))
		})
	}
}

func TestAPoolerHasSessionsIfAnyOfItsClientsHas(t *testing.T) {
	transaction := Pool{Mode: "transaction", Clients: 3}
	for name, c := range map[string]struct {
		pools Pools
		want  bool
	}{
		"none at all":             {nil, false},
		"transactions only":       {Pools{transaction}, false},
		"statements only":         {Pools{{Mode: "statement", Clients: 1}}, false},
		"a session":               {Pools{transaction, {Mode: "session", Clients: 1}}, true},
		"one that waits":          {Pools{{Mode: "session", ClientsWaiting: 1}}, true},
		"one that has only left":  {Pools{{Mode: "session", Servers: 1}}, true},
		"sessions without anyone": {Pools{transaction, {Mode: "session"}}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.pools.sessions()) })
	}
}
