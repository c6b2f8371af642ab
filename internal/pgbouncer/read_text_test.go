package pgbouncer

import (
	"testing"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

func TestReadText_OneValue_IsReturnedAndNothingIsWritten(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		target := targetOf(p, parts.App)
		text, err := target.ReadText(t.Context(), "app", "SELECT 'é' || 1")
		require.NoError(t, err)
		require.Equal(t, "é1", text)
		for _, query := range []string{"SELECT 1, 2", "SELECT 1 UNION SELECT 2", "SELECT 1 WHERE false", "SELECT 1; SELECT 2", "SELECT repeat('x', 13000)"} {
			_, err := target.ReadText(t.Context(), "app", query)
			require.ErrorIs(t, err, ErrNoText, query)
		}
		_, err = target.ReadText(t.Context(), "app", "CREATE TABLE read_text (n int); SELECT 1")
		require.ErrorContains(t, err, "read-only transaction")
		_, err = target.ReadText(t.Context(), "none", "SELECT 1")
		require.Error(t, err)
		_, err = target.ReadText(t.Context(), "app", "SELECT repeat('x', 1000000)")
		require.Error(t, err)
	})
}
