package kube

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// A database that is the only copy of its data was never paused. doctor named it, and resume then removed what protects it.
func TestUnfinished_OnlyCopy_IsNotPaused(t *testing.T) {
	e := newLabEnv(t)
	const name = "i-00000000000c0b1e5"
	lease, err := e.client.AcquireLease(t.Context(), name, termination.Acquisition{})
	require.NoError(t, err)
	require.NotNil(t, lease)
	t.Cleanup(func() { require.NoError(t, lease.Release(termination.KeepNothing)) })
	records := map[string]string{"paused": `{"phase":"poolers","escort":{}}`, "copy": `{"phase":"databases","escort":{"onlyCopy":true},"onlyCopy":true}`}
	for uid, text := range records {
		require.NoError(t, lease.SetRecord(t.Context(), drain.EscortRecord+uid, text))
	}
	all, err := e.client.Unfinished(t.Context())
	require.NoError(t, err)
	for _, u := range all {
		if u.Name == name {
			require.Equal(t, []string{"paused"}, u.Pods)
			require.Equal(t, []string{"copy", "paused"}, u.Escorted)
			return
		}
	}
	require.Fail(t, "the Lease is not listed")
}
