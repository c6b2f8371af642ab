package postgres

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.hidden = true
		_, err, _ := w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(-time.Minute) })
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
	})
}
