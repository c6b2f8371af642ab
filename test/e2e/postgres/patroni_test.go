package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
)

// With all poolers paused around it, a switchover fails no transaction: what quiesce does, done here by hand. It also shows that the
// clusters are what the other tests need.
func TestPatroni_SwitchoverUnderPause_NothingFails(t *testing.T) {
	for name, o := range map[string]patroni.Options{
		"3.0, ConfigMaps, three members, pgbouncer 1.18": {Version: "3.0", Poolers: database.Options{Version: "1.18"}},
		"3.0, Endpoints, two members, like Crunchy, pgbouncer 1.24": {
			Version: "3.0", Endpoints: true, Members: 2, Style: patroni.Crunchy, PDB: patroni.PDBOfMembers, Poolers: database.Options{Version: "1.24"},
		},
		"4.0, Endpoints, synchronous, like StackGres, pgbouncer 1.18": {
			Version: "4.0", Endpoints: true, Synchronous: true, Style: patroni.StackGres, RESTAuth: true, Poolers: database.Options{Version: "1.18"},
		},
		"4.0, ConfigMaps, two synchronous members, like Zalando, pgbouncer 1.24": {
			Version: "4.0", Members: 2, Synchronous: true, Style: patroni.Zalando, PDB: patroni.PDBOfPrimary, BesideMembers: true,
			Poolers: database.Options{Version: "1.24"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t, o)
			candidate, err := p.cluster.Candidate(p.ctx)
			require.NoError(t, err)
			p.underPause(func() { p.switchOver(candidate) })
			p.requireNothingFailed()
			require.NoError(t, p.cluster.AwaitStreaming(p.ctx))
		})
	}
}

// The same switchover without PAUSE: clients fail. It shows that the clients of these tests see what clients see. No acknowledged write is
// lost even so, because the old leader sends all it has before it stops.
func TestPatroni_SwitchoverWithoutPause_ClientsFail(t *testing.T) {
	p := newFixture(t, patroni.Options{Version: "4.0", Endpoints: true, Members: 2, Poolers: database.Options{Version: "1.24"}})
	candidate, err := p.cluster.Candidate(p.ctx)
	require.NoError(t, err)
	p.consoles() // so that the poolers try again soon
	p.switchOver(candidate)
	p.requireClientsFailed()
}

// Without the escort of primaries, a drain evicts the leader like any pod. Patroni switches over, and the member starts on another node.
func TestPatroni_DrainWithoutEscort_ClientsFail(t *testing.T) {
	p := newFixture(t, patroni.Options{Version: "3.0", PDB: patroni.PDBOfMembers, Poolers: database.Options{Version: "1.18"}})
	leader, err := p.cluster.LeaderName(p.ctx)
	require.NoError(t, err)
	function := p.newFunction("phases: [{name: workloads}]\n")
	p.consoles() // so that the poolers try again soon
	report, err := p.Drain(p.ctx, function, p.Target)
	require.NoError(t, err)
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	require.NoError(t, p.AwaitTermination(p.ctx, p.Target))
	next, err := p.patroni.AwaitLeader(p.ctx, leader)
	require.NoError(t, err)
	t.Logf("the leader was %s and is %s; the drain took %s", leader, next, report.FinishedAt.Sub(report.StartedAt).Round(time.Millisecond))
	p.requireClientsFailed()
	require.NoError(t, p.cluster.AwaitStreaming(p.ctx))
}
