package postgres

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

func requireOnlyCopy(t *testing.T, err error, only bool) {
	t.Helper()
	held, is := errors.AsType[*drain.Held](err)
	require.True(t, is, "%v", err)
	require.Equal(t, only, held.OnlyCopy, held.Reason)
}

// The primary is the only member, and its volume cannot follow it. Its data would be gone with the node: not even the end of the drain's
// time is a reason to stop it.
func TestRun_OnlyCopyOnTheNode_HeldToTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		delete(w.members, "pg-1")
		delete(w.members, "pg-2")
		w.disk = "the volume of claim data-pg-0 is on the node"
		_, err, _ := w.run(t, "pg-0")
		requireOnlyCopy(t, err, true)
		requireHeld(t, err, "its data may exist on this node only")
		over := func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) }
		_, err, _ = w.run(t, "pg-0", over)
		requireOnlyCopy(t, err, true)

		w.hidden = true // a later run that cannot read the cluster does not evict it for that
		_, err, _ = w.run(t, "pg-0", over)
		requireOnlyCopy(t, err, true)
		require.Empty(t, w.evicted)

		w.hidden, w.disk = false, "" // a person has moved the data
		_, err, _ = w.run(t, "pg-0", over)
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
	})
}

// A person has added a replica: the primary moves as any other.
func TestRun_OnlyCopyGetsAReplica_Moves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		one, two := w.members["pg-1"], w.members["pg-2"]
		delete(w.members, "pg-1")
		delete(w.members, "pg-2")
		w.disk = "the volume of claim data-pg-0 is on the node"
		_, err, _ := w.run(t, "pg-0")
		requireOnlyCopy(t, err, true)
		w.members["pg-1"], w.members["pg-2"] = one, two
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
		w.requireNothingPaused(t)
	})
}

// Nothing is known of another one that cannot be read in the end.
func TestRun_NothingIsRecorded_UnreadableIsEvictedInTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.hidden = true
		_, err, _ := w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) })
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
	})
}

// Another pod protects nothing while it does not stream, nor do reasons to hold. Each case is on a local disk, and its leader is held.
func TestAssess_NoReplicaStreams_IsTheOnlyCopy(t *testing.T) {
	const only, none = "pg-0 is the only member of its cluster, and its data may exist on this node only: local", "no replica of pg-0 streams, and its data may exist on this node only: local"
	for name, c := range map[string]struct {
		change func(*Facts)
		want   string
	}{
		"the replicas clone":                    {each(func(m *Member) { m.State = "creating replica" }), none},
		"the replicas are broken":               {each(func(m *Member) { m.Live = false }), none},
		"the replicas stop":                     {each(func(m *Member) { m.Terminating = true }), none},
		"another leads too":                     {each(func(m *Member) { m.Role = Primary }), none},
		"a pod has not started":                 {func(f *Facts) { f.Members, f.Others = f.Members[:1], 1 }, none},
		"the operator's objects hold":           {func(f *Facts) { f.Members, f.Holds = f.Members[:1], []string{"odd"} }, only},
		"a replica streams":                     {func(f *Facts) { f.Members[1].Live = false }, ""},
		"a replica streams and may leave":       {each(func(m *Member) { m.Leaving = "it is being terminated" }), ""},
		"the volumes follow the only pod":       {func(f *Facts) { f.Members, f.Members[0].Disk = f.Members[:1], "" }, ""},
		"the volumes follow, no member answers": {func(f *Facts) { f.Members[0].Disk = ""; each(func(m *Member) { m.Live = false })(f) }, ""},
	} {
		for _, f := range []Facts{healthy(), healthyCNPG()} {
			f.Members[0].Disk = "local"
			c.change(&f)
			require.Equal(t, c.want, f.whyOnlyCopy("pg-0"), name)
			require.Equal(t, c.want != "", f.isOnlyCopy("pg-0"), name)
			if c.want != "" {
				require.Contains(t, Assess(f, settings, now).Holds, c.want, name)
				require.Nil(t, AssessLast(f, settings, now).Candidate, name)
			}
		}
	}
}

// The replica that a person adds clones when the drain's time ends: the only copy is still held, and moves as soon as the replica streams.
func TestRun_OnlyCopyGetsAReplicaThatClones_HeldToTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		one, two := w.members["pg-1"], w.members["pg-2"]
		delete(w.members, "pg-1")
		delete(w.members, "pg-2")
		w.disk = "the volume of claim data-pg-0 is on the node"
		_, err, _ := w.run(t, "pg-0")
		requireOnlyCopy(t, err, true)

		w.members["pg-1"], w.starting["pg-1"] = one, time.Now().Add(time.Hour)
		over := func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) }
		for _, w.hidden = range []bool{false, true} {
			_, err, _ = w.run(t, "pg-0", over)
			requireOnlyCopy(t, err, true)
			require.NotNil(t, w.records["pg-0"])
			require.Empty(t, w.evicted)
		}

		w.hidden = false
		delete(w.starting, "pg-1")
		w.members["pg-2"] = two
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
	})
}

// Two members, of which the replica has been broken for weeks.
func TestRun_ReplicaIsBroken_PrimaryIsTheOnlyCopy(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		delete(w.members, "pg-2")
		w.down["pg-1"], w.disk = true, "it has no PersistentVolumeClaim"
		_, err, _ := w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) })
		requireOnlyCopy(t, err, true)
		require.Empty(t, w.evicted)

		w.disk = "" // once the API server says that its volumes follow, it is as any other
		_, err, _ = w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) })
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
	})
}

// A move has left a record, by which poolers are resumed and the old primary is verified. It is not lost.
func TestRun_OnlyCopyAfterAMove_RecordOfTheMoveStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.disk = "it has no PersistentVolumeClaim"
		w.down["pg-1"], w.down["pg-2"] = true, true
		w.records["pg-0"] = json.RawMessage(mark{Namespace: "db", Cluster: "pg", Since: time.Now(), Leader: "pg-9", Moved: true}.text())
		_, err, _ := w.run(t, "pg-0")
		requireOnlyCopy(t, err, true)
		record, err := readMark(string(w.records["pg-0"]))
		require.NoError(t, err)
		require.True(t, record.OnlyCopy)
		require.Equal(t, "pg-9", record.Leader)

		w.down["pg-1"], w.strict, w.paused = false, true, true
		_, err, _ = w.run(t, "pg-0")
		requireOnlyCopy(t, err, false)
		record, err = readMark(string(w.records["pg-0"]))
		require.NoError(t, err)
		require.False(t, record.OnlyCopy)
		require.Equal(t, "pg-9", record.Leader)
	})
}

func TestObserve_Disk_IsReadUnlessAReplicaStreams(t *testing.T) {
	a := demoAPI()
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
	require.NoError(t, err)
	require.Empty(t, f.LeaderMember().Disk, "pg-1 streams")
	a.errs["pg-1"] = escort.ErrForbidden // what it wrote on its pod before says that it streams
	f, err = Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
	require.NoError(t, err)
	require.Equal(t, "it has no PersistentVolumeClaim", f.LeaderMember().Disk)
	require.True(t, f.isOnlyCopy(f.Leader))

	c, identity := cnpgAPI()
	c.pods, c.custom = c.pods[:1], strings.Replace(c.custom, "Cluster in healthy state", "odd", 1)
	f, err = Observe(t.Context(), &Observer{Settings: settings, Cluster: c}, identity)
	require.NoError(t, err)
	require.NotEmpty(t, f.Holds)
	require.True(t, f.isOnlyCopy(f.Leader))
}
