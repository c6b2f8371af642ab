package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// Stream receives the write-ahead log, as a standby does, until the test ends. The URL names a login that may, with replication=true or
// replication=database.
func Stream(t testing.TB, url string) {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	require.NoError(t, err)
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	identity, err := conn.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll()
	require.NoError(t, err)
	conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %s", identity[0].Rows[0][2])})
	require.NoError(t, conn.Frontend().Flush())
	for {
		message, err := conn.ReceiveMessage(t.Context())
		require.NoError(t, err)
		if _, streams := message.(*pgproto3.CopyBothResponse); streams {
			return
		}
	}
}
