package pooler

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

func TestConsolePort_ConfiguredOrDeclaredOrPreset(t *testing.T) {
	exporter := escort.Container{Name: "exporter", Image: "registry:5000/exporter:1", Ports: []escort.Port{{Name: "metrics", Number: 9127}}}
	named := escort.Container{Name: "pgbouncer-exporter", Image: "tools:1", Ports: []escort.Port{{Number: 9127}}}
	metrics := escort.Container{Name: "metrics", Image: "registry:5000/metrics/pgbouncer-exporter:v0.9", Ports: []escort.Port{{Number: 9127}}}
	listens := []escort.Port{{Number: 5435}}
	unnamed := func(port int) []escort.Container {
		return []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Number: 9127}, {Number: port}}}}
	}
	chart := drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}
	for name, c := range map[string]struct {
		configured int
		pod        escort.Pod
		want       int
	}{
		"as configured":          {7000, escort.Pod{Containers: []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Name: "psql", Number: 5432}}}}}, 7000},
		"by the port's name":     {0, escort.Pod{Containers: []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Name: "metrics", Number: 9127}, {Name: "psql", Number: 5432}}}}}, 5432},
		"the only port":          {0, escort.Pod{Containers: []escort.Container{exporter, {Name: "pgbouncer", Ports: []escort.Port{{Name: "", Number: 6543}}}}}, 6543},
		"by the image":           {0, escort.Pod{Containers: []escort.Container{exporter, {Name: "main", Image: "r:5000/a/pgbouncer:1", Ports: []escort.Port{{Name: "", Number: 6000}}}}}, 6000},
		"Zalando's container":    {0, escort.Pod{Containers: []escort.Container{exporter, {Name: "connection-pooler", Ports: []escort.Port{{Name: "", Number: 5433}}}}}, 5433},
		"the first container":    {0, escort.Pod{Containers: []escort.Container{{Name: "main", Ports: []escort.Port{{Name: "", Number: 5434}}}, exporter}}, 5434},
		"as the chart has it":    {0, escort.Pod{Pod: drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}}, 5432},
		"an exporter's name":     {0, escort.Pod{Containers: []escort.Container{named, {Name: "pgbouncer", Ports: listens}}}, 5435},
		"an exporter's image":    {0, escort.Pod{Containers: []escort.Container{metrics, {Name: "main", Image: "a/pgbouncer:1", Ports: listens}}}, 5435},
		"beside an exporter":     {0, escort.Pod{Containers: []escort.Container{named, metrics, {Name: "main", Ports: listens}}}, 5435},
		"only an exporter":       {0, escort.Pod{Containers: []escort.Container{named}}, 9127},
		"not the preset's":       {0, escort.Pod{Pod: chart, Containers: unnamed(6432)}, 6432},
		"the preset's, declared": {0, escort.Pod{Pod: chart, Containers: unnamed(5432)}, 5432},
		"several without a name": {0, escort.Pod{Containers: []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Name: "a", Number: 1}, {Name: "b", Number: 2}}}}}, defaultPort},
		"nothing is known":       {0, escort.Pod{}, defaultPort},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, ConsolePort(c.configured, c.pod))
		})
	}
}

func TestHasSessions_AnySessionClient_True(t *testing.T) {
	transaction := pgbouncer.Pool{Mode: "transaction", Clients: 3}
	for name, c := range map[string]struct {
		pools pgbouncer.Pools
		want  bool
	}{
		"none at all":             {nil, false},
		"transactions only":       {pgbouncer.Pools{transaction}, false},
		"statements only":         {pgbouncer.Pools{{Mode: "statement", Clients: 1}}, false},
		"a session":               {pgbouncer.Pools{transaction, {Mode: "session", Clients: 1}}, true},
		"one that waits":          {pgbouncer.Pools{{Mode: "session", ClientsWaiting: 1}}, true},
		"one that has only left":  {pgbouncer.Pools{{Mode: "session", Servers: 1}}, true},
		"sessions without anyone": {pgbouncer.Pools{transaction, {Mode: "session"}}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.pools.HasSessions()) })
	}
}
