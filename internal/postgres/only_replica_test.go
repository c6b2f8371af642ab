package postgres

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// overdue is a request after the end of the drain's time.
func overdue(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) }

// The leader's node has died a moment ago: its key is still valid, and CloudNativePG has asked for nothing yet.
func TestRun_LeaderHasJustDied_ReplicaIsHeld(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.down["pg-0"] = true
		_, err, _ := w.run(t, "pg-1")
		requireHeld(t, err, "the leader pg-0 does not answer: no answer")

		c := newCNPGWorld()
		c.down["pg-0"] = true
		_, err, _ = c.runInstance(t, "pg-1")
		requireHeld(t, err, "the leader pg-0 does not answer: no answer")
		require.Empty(t, append(w.evicted, c.evicted...))
	})
}

// The network or a permission is missing: no member answers. What Kubernetes says of the leader counts then, and replicas are evicted as ever.
func TestRun_NoMemberAnswers_ReplicaOfAReadyLeaderLeaves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.disk = "it has no PersistentVolumeClaim"
		w.unasked = true
		_, err, _ := w.run(t, "pg-1")
		require.NoError(t, err)
		require.Equal(t, []string{"pg-1"}, w.evicted)
		_, err, _ = w.run(t, "pg-0")
		requireOnlyCopy(t, err, true)
	})
}

// Two members on local disks. The leader is gone with its node, and no failover has happened: the replica has all that is left.
func TestRun_ReplicaIsTheOnlyCopy_HeldToTheEnd(t *testing.T) {
	for name, change := range map[string]func(*world){
		"the leader does not run":         func(w *world) { w.down["pg-0"] = true },
		"the leader's pod is gone":        func(w *world) { delete(w.members, "pg-0") },
		"the leader has released its key": func(w *world) { w.down["pg-0"], w.leader = true, "" },
		"maintenance mode":                func(w *world) { w.down["pg-0"], w.paused = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				delete(w.members, "pg-2")
				w.disk = "it has no PersistentVolumeClaim"
				change(w)
				_, err, _ := w.run(t, "pg-1", overdue)
				requireOnlyCopy(t, err, true)
				requireHeld(t, err, "may exist on this node only: it has no PersistentVolumeClaim")

				w.hidden = true // a later run that cannot read the cluster does not evict it for that
				_, err, _ = w.run(t, "pg-1", overdue)
				requireOnlyCopy(t, err, true)
				require.Empty(t, w.evicted)

				w.hidden, w.members["pg-0"], w.down["pg-0"], w.leader = false, "10.0.0.10", false, "pg-0"
				_, err, _ = w.run(t, "pg-1", overdue)
				require.NoError(t, err)
				require.Equal(t, []string{"pg-1"}, w.evicted)
				require.Nil(t, w.records["pg-1"])
			})
		})
	}
}

// Its volume follows it, or another replica has received as much: the drain's time decides, as for any other.
func TestRun_LeaderIsDeadAndTheReplicaIsNotTheOnlyCopy_EvictedInTheEnd(t *testing.T) {
	for name, change := range map[string]func(*world){
		"its volume follows it":             func(w *world) { delete(w.members, "pg-2"); w.disk = "" },
		"another replica has received more": func(w *world) { w.lag["pg-1"] = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.down["pg-0"], w.disk = true, "it has no PersistentVolumeClaim"
				change(w)
				_, err, _ := w.run(t, "pg-1")
				requireOnlyCopy(t, err, false)
				_, err, _ = w.run(t, "pg-1", overdue)
				require.NoError(t, err)
				require.Equal(t, []string{"pg-1"}, w.evicted)
			})
		})
	}
}

// The leader is dead, and pg-1 is on a local disk. Another replica protects its data only with a log that is known to be as long.
func TestAssessReplica_LeaderIsDead_IsTheOnlyCopyUnlessAnotherHasItsData(t *testing.T) {
	for name, c := range map[string]struct {
		change func(one, two *Member)
		only   bool
	}{
		"the other has received as much":    {func(_, _ *Member) {}, false},
		"the other has received less":       {func(_, two *Member) { two.LSN-- }, true},
		"the other is on a timeline before": {func(_, two *Member) { two.Timeline-- }, true},
		"the other does not answer":         {func(_, two *Member) { two.Live = false }, true},
		"the other stops":                   {func(_, two *Member) { two.Terminating = true }, true},
		"the other clones":                  {func(_, two *Member) { two.LSN, two.State = 0, "creating replica" }, true},
		"the other says that it leads":      {func(_, two *Member) { two.Role = Primary }, true},
		"its own position is not known":     {func(one, _ *Member) { one.LSN = 0 }, true},
		"it does not answer itself":         {func(one, _ *Member) { one.Live = false }, true},
		"its volume follows it":             {func(one, two *Member) { one.Disk, two.Live = "", false }, false},
	} {
		for _, f := range []Facts{healthy(), healthyCNPG()} {
			f.Members[0].Live, f.LeaderLive = false, false
			each(func(m *Member) { m.State = "running" })(&f)
			one, two := &f.Members[1], &f.Members[2]
			one.Disk = "local"
			c.change(one, two)
			require.Equal(t, c.only, f.isOnlyCopy("pg-1"), name)
			why := "no other member that answers has the data of pg-1, and they may exist on this node only: local"
			require.Equal(t, c.only, slices.Contains(AssessReplica(f, "pg-1", now), why), name)

			f.Members[0].Live = true
			require.False(t, f.isOnlyCopy("pg-1"), "%s: the leader has all data", name)
		}
	}
}
