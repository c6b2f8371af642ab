package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

func TestAdvise_Primary_SaysWhetherItCanMove(t *testing.T) {
	f := healthy()
	f.LeaderSince, f.Members[2].Leaving = now.Add(-3*time.Hour), "it is cordoned"
	f.Members[1].LSN -= mib / 2
	require.Equal(t, []string{
		"The primary of database db/demo (patroni, Patroni in endpoints 4.0.7), since 3h0m0s, at 0/6400000 of timeline 2",
		"Replica pg-1 on node node-pg-1: 512.0 KiB behind, streaming",
		"Replica pg-2 on node node-pg-2: 0 bytes behind, streaming; its node does not stay: it is cordoned",
		"The primary could move now: pg-1 would become primary",
	}, f.advise(settings, "pg-0", now))
}

func TestAdvise_PrimaryThatMustStay_SaysWhyAndWhatToApply(t *testing.T) {
	f := healthy()
	f.Paused = true
	each(func(m *Member) { m.Live, m.Failure = false, "get /patroni: permission missing: pods" })(&f)
	lines := f.advise(settings, "pg-0", now)
	require.Contains(t, lines, "The primary would be held: Patroni is in maintenance mode (pause)")
	require.Contains(t, lines, "Replica pg-1 on node node-pg-1: it does not say its position in the log: get /patroni: permission missing: pods")
	require.Contains(t, lines, "Apply a copy of infra/rbac-postgres-patroni.yaml with scope demo in namespace db")
}

// The leader of a cluster that follows another one takes no writes, so it is no primary.
func TestAdvise_StandbyCluster_LeaderIsCalledSo(t *testing.T) {
	f := healthy()
	f.Standby, f.Members[0].Role = true, StandbyLeader
	require.Contains(t, f.advise(settings, "pg-0", now)[0], "The standby leader of database db/demo (patroni, ")
	require.Equal(t, "A replica of database db/demo, whose standby leader is pg-0: 0 bytes behind, streaming", f.advise(settings, "pg-1", now)[0])
	f.Paused = true
	require.Contains(t, f.advise(settings, "pg-0", now), "The standby leader would be held: Patroni is in maintenance mode (pause)")
	f.Members[0].Role = Primary
	require.Contains(t, f.advise(settings, "pg-0", now)[0], "The primary of database", "it has just been promoted")
	f = healthyCNPG()
	f.Standby, f.LeaderMember().Role = true, Replica
	require.Contains(t, f.advise(settings, "pg-0", now)[0], "The designated primary of database db/demo")
}

func TestAdvise_OtherMembers_SayWhatTheyAre(t *testing.T) {
	f := healthy()
	strictPair(&f)
	require.Equal(t, []string{
		"A replica of database db/demo, whose primary is pg-0: 0 bytes behind, streaming",
		"The replica would be held: pg-1 is the last synchronous standby, and without one the cluster takes no writes",
	}, f.advise(settings, "pg-1", now))
	f = healthy()
	f.Members = f.Members[:1]
	require.Contains(t, f.advise(settings, "pg-0", now), "It is evicted like any other pod: it is the only member of its cluster, and its volumes follow it to another node")
	f = healthyCNPG()
	f.LeaderLive = false
	require.Equal(t, "The primary of database db/demo (cloudnative-pg, CloudNativePG 1.30.0)", f.describeLeader(now))
	require.Contains(t, f.advise(settings, "pg-1", now)[0], "at 0/6400000")
}

func TestLookFailed_PermissionMissing_NamesTheManifest(t *testing.T) {
	require.Equal(t, []string{
		"The primary is held, because database db/demo cannot be looked at: permission missing",
		"Apply a copy of infra/rbac-postgres-patroni.yaml with scope demo in namespace db",
	}, lookFailed(demo, escort.ErrForbidden))
	cnpg := Identity{Operator: CloudNativePG, Namespace: "db", Cluster: "pg"}
	require.Contains(t, lookFailed(cnpg, escort.ErrForbidden)[1], "infra/rbac-postgres-cnpg.yaml")
	require.Len(t, lookFailed(demo, errNoObjects), 1)
}

func TestEscortAdvise_MemberOfTheWorld_NamesItsPoolers(t *testing.T) {
	w := newWorld()
	e, _ := w.escort()
	primary := memberPod(w.leader, w.members[w.leader]).Pod
	before := len(w.effects)
	lines := e.Advise(t.Context(), primary)
	require.NotEmpty(t, lines)
	require.Contains(t, lines[len(lines)-1], "2 poolers in front of it can hold clients")
	for _, line := range lines {
		require.Equal(t, ".", line[len(line)-1:])
	}
	require.Len(t, w.effects, before, "it changes nothing")
	require.Empty(t, e.Advise(t.Context(), drain.Pod{Ref: drain.Ref{Namespace: "db", Name: "web"}}))
}

func TestAdvise_ReplicationClient_ItsDatabaseIsNamed(t *testing.T) {
	p := &front{databases: []string{"app"}, streaming: []string{"cdc"}}
	p.pod.Name = "pooler-a"
	require.Equal(t, []string{
		"1 poolers in front of it can hold clients: pooler-a",
		"Pooler pooler-a: its databases with a replication client, which a pause would wait for, are not paused: cdc",
	}, (&paths{fronts: []*front{p}}).advise(&Facts{}))
}
