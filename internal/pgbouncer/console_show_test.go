package pgbouncer

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

// table returns an answer with one row, from pairs of column and value.
func table(pairs ...string) []*pgconn.Result {
	result := &pgconn.Result{Rows: [][][]byte{{}}}
	for pair := range slices.Chunk(pairs, 2) {
		result.FieldDescriptions = append(result.FieldDescriptions, pgconn.FieldDescription{Name: pair[0]})
		result.Rows[0] = append(result.Rows[0], []byte(pair[1]))
	}
	return []*pgconn.Result{result}
}

func TestPool_ColumnsInAnyOrder_ReadByName(t *testing.T) {
	for r := range rows(table("pool_mode", "transaction", "sv_tested", "1", "sv_active", "2", "user", "u", "new", "7",
		"cl_waiting", "3", "database", "d", "cl_active", "5")) {
		pool := r.pool()
		require.NoError(t, r.err)
		require.Equal(t, Pool{"d", "u", "transaction", 5, 3, 3}, pool)
	}
}

func TestPool_CancelColumns_CountAsServers(t *testing.T) {
	for r := range rows(table("database", "d", "user", "u", "cl_active", "0", "cl_waiting", "0", "sv_active", "1",
		"sv_active_cancel", "2", "sv_being_canceled", "4", "sv_tested", "8", "pool_mode", "session")) {
		require.Equal(t, 15, r.pool().Servers)
		require.NoError(t, r.err)
	}
}

func TestRow_MissingOrInvalidColumn_ErrorNamesIt(t *testing.T) {
	for r := range rows(table("database", "d", "user", "u")) {
		r.pool()
		require.EqualError(t, r.err, "no column pool_mode")
	}
	for r := range rows(table("sv_active", "many")) {
		r.number("sv_active")
		require.ErrorContains(t, r.err, "column sv_active")
	}
}

func TestRow_FewerValuesThanColumns_Error(t *testing.T) {
	short := table("database", "d", "user", "u")
	short[0].Rows[0] = short[0].Rows[0][:1]
	for r := range rows(short) {
		r.text("user")
		require.Error(t, r.err)
	}
}

func TestPools_Several_AddUp(t *testing.T) {
	pools := Pools{{"a", "u", "transaction", 1, 2, 4}, {"b", "u", "session", 8, 16, 32}, {"c", "u", "session", 0, 0, 0}}
	require.Equal(t, 36, pools.InFlight())
	require.Equal(t, 27, pools.Clients())
	require.Equal(t, []string{"session", "transaction"}, pools.Modes())
	require.Empty(t, Pools{}.Modes())
}

func TestPools_OpenTransaction_Counted_ConsolesNot(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		pools, err := c.Pools(t.Context())
		require.NoError(t, err)
		require.Empty(t, pools)

		app, idle := p.Connect(t), p.Connect(t)
		parts.Exec(t, idle, "SELECT")
		parts.Exec(t, app, "BEGIN")
		pools, err = c.Pools(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, pools.InFlight())
		require.Equal(t, 2, pools.Clients())
		require.Equal(t, []string{"transaction"}, pools.Modes())
		require.Zero(t, pools[0].ClientsWaiting)
		require.Equal(t, "app", pools[0].Database)
		require.Equal(t, "app", pools[0].User)

		parts.Exec(t, app, "COMMIT")
		require.Eventually(t, func() bool {
			pools, err = c.Pools(t.Context())
			return err == nil && pools.InFlight() == 0
		}, waitTimeout, pollInterval)
		require.Equal(t, 2, pools.Clients())
	})
}

func TestPools_PausedClient_CountsAsWaiting(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		pending, err := c.Pause(t.Context())
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		done := make(chan error, 1)
		go func() {
			_, err := app.Exec(t.Context(), "SELECT").ReadAll()
			done <- err
		}()
		require.Eventually(t, func() bool {
			pools, err := c.Pools(t.Context())
			return err == nil && len(pools) == 1 && pools[0].ClientsWaiting == 1
		}, waitTimeout, pollInterval)
		require.NoError(t, c.Resume(t.Context()))
		require.NoError(t, <-done)
	})
}

func TestClients_Connected_HaveNameAndAddress(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		clients, err := c.Clients(t.Context())
		require.NoError(t, err)
		require.Empty(t, clients)
		app := p.Connect(t)
		clients, err = c.Clients(t.Context())
		require.NoError(t, err)
		require.Len(t, clients, 1)
		require.Equal(t, "app", clients[0].Database)
		require.Equal(t, "app", clients[0].User)
		require.Equal(t, app.Conn().LocalAddr().String(), clients[0].Addr)
	})
}

func TestSet_AnyValue_IsReadBack(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		require.NoError(t, c.Set(t.Context(), "query_wait_timeout", "7"))
		value, err := c.Setting(t.Context(), "query_wait_timeout")
		require.NoError(t, err)
		require.Equal(t, "7", value)

		const hostile = `' ; SHUTDOWN; --''`
		require.NoError(t, c.Set(t.Context(), "server_reset_query", hostile))
		value, err = c.Setting(t.Context(), "server_reset_query")
		require.NoError(t, err)
		require.Equal(t, hostile, value)

		require.Error(t, c.Set(t.Context(), "no_such_setting", "1"))
		require.Error(t, c.Set(t.Context(), "x = 1; SHUTDOWN", "1"))
		_, err = c.Setting(t.Context(), "no_such_setting")
		require.ErrorContains(t, err, "no_such_setting")
	})
}
