package pgbouncer

import (
	"testing"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

func TestUsers_OfTheUserlist_KnownAndCounted(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		for name, known := range map[string]bool{parts.App.Name: true, "nobody": false} {
			has, err := c.HasUser(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, known, has, name)
		}
		parts.Exec(t, p.Connect(t), "SELECT 1")
		clients, err := c.ClientsOf(t.Context(), parts.App.Name)
		require.NoError(t, err)
		require.Len(t, clients, 1)
		kept, err := c.Kept(t.Context(), parts.App.Name)
		require.NoError(t, err)
		require.Len(t, kept, 1)
		require.Positive(t, kept[0])
		kept, err = c.Kept(t.Context(), "nobody")
		require.NoError(t, err)
		require.Empty(t, kept)
		consoles, err := c.ClientsOf(t.Context(), parts.Admin.Name)
		require.NoError(t, err)
		require.Len(t, consoles, 1, "a console counts")
		require.Equal(t, database, consoles[0].Database)
		p.RequireLogs(t, "RELOAD command issued", func() { require.NoError(t, c.Reload(t.Context())) })
	})
}
