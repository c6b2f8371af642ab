package pgbouncer

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

// rowOf returns a row, from pairs of column and value.
func rowOf(pairs ...string) *row {
	r := &row{columns: map[string]int{}}
	for pair := range slices.Chunk(pairs, 2) {
		r.columns[pair[0]] = len(r.values)
		r.values = append(r.values, []byte(pair[1]))
	}
	return r
}

func TestPool_ColumnsInAnyOrder_ReadByName(t *testing.T) {
	r := rowOf("pool_mode", "transaction", "sv_tested", "1", "sv_active", "2", "user", "u", "new", "7",
		"cl_waiting", "3", "database", "d", "cl_active", "5", "sv_login", "4")
	require.Equal(t, Pool{"d", "u", "transaction", 5, 3, 3, 4}, r.pool())
	require.NoError(t, r.err)
}

func TestPool_CancelColumns_CountAsServers(t *testing.T) {
	r := rowOf("database", "d", "user", "u", "cl_active", "0", "cl_waiting", "0", "sv_active", "1",
		"sv_active_cancel", "2", "sv_being_canceled", "4", "sv_tested", "8", "pool_mode", "session")
	require.Equal(t, 15, r.pool().Servers)
	require.NoError(t, r.err)
}

func TestRow_MissingColumn_ErrorNamesIt(t *testing.T) {
	r := rowOf("database", "d", "user", "u")
	r.pool()
	require.EqualError(t, r.err, "no column pool_mode")
}

// Counts are added up and decide when a pooler is idle.
func TestRow_NoCount_ErrorNamesColumnAndIsShort(t *testing.T) {
	for _, value := range []string{"many", "", "-1", "9223372036854775807", "99999999999999999999", "1000001", strings.Repeat("1", 1<<20), "\x00\n"} {
		r := rowOf("sv_active", value)
		require.Zero(t, r.number("sv_active"))
		require.ErrorContains(t, r.err, "column sv_active")
		require.Less(t, len(r.err.Error()), 2*maxText)
	}
}

func TestRow_FewerValuesThanColumns_Error(t *testing.T) {
	r := rowOf("database", "d", "user", "u")
	r.values = r.values[:1]
	r.text("user")
	require.Error(t, r.err)
}

func TestPools_Several_AddUp(t *testing.T) {
	pools := Pools{{"a", "u", "transaction", 1, 2, 4, 8}, {"b", "u", "session", 8, 16, 32, 64}, {"c", "u", "session", 0, 0, 0, 0}}
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
		read := func() (clients []Client) {
			require.NoError(t, c.EachClient(t.Context(), func(client Client) { clients = append(clients, client) }))
			return clients
		}
		require.Empty(t, read())
		app := p.Connect(t)
		clients := read()
		require.Len(t, clients, 1)
		require.Equal(t, "app", clients[0].Database)
		require.Equal(t, "app", clients[0].User)
		require.Equal(t, app.Conn().LocalAddr().String(), clients[0].Addr)
	})
}

// A client that streams keeps its connection, so that a PAUSE is never answered.
func TestStreaming_ReplicationClient_ItsDatabase(t *testing.T) {
	superuser := parts.User{Name: "postgres", Password: "any"}
	p := parts.Start(t, parts.Newer, parts.Options{Users: []parts.User{superuser}, Aliases: []string{"other"}})
	c := open(t, p)
	parts.Exec(t, p.Connect(t), "SELECT")
	streaming, err := c.Streaming(t.Context())
	require.NoError(t, err)
	require.Empty(t, streaming)

	postgres.Stream(t, fmt.Sprintf("postgres://%s:%s@%s/app?sslmode=disable&replication=database", superuser.Name, superuser.Password, p.Addr))
	streaming, err = c.Streaming(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"app"}, streaming)
	pools, err := c.Pools(t.Context())
	require.NoError(t, err)
	require.False(t, pools.HasSessions(), "the mode of the pool does not say it")
	pause, err := openAnother(t, c).PauseDatabase(t.Context(), "app")
	require.NoError(t, err)
	select {
	case <-pause.Done():
		t.Fatal("the pause was answered:", pause.Err())
	case <-time.After(time.Second):
	}
}

func TestStreaming_OlderThan123_Nobody(t *testing.T) {
	streaming, err := open(t, parts.Start(t, parts.Older, parts.Options{})).Streaming(t.Context())
	require.NoError(t, err)
	require.Empty(t, streaming)
}

// A paused pooler has the setting apply to clients that wait, though their queries have not begun.
func TestTimeout_QueryTimeout_DisconnectsWaitingClients(t *testing.T) {
	parts.Each(t, parts.Options{Settings: map[string]string{QueryTimeout: "1"}}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		limit, err := c.Timeout(t.Context(), QueryTimeout)
		require.NoError(t, err)
		require.Equal(t, time.Second, limit)
		wait, err := c.Timeout(t.Context(), QueryWaitTimeout)
		require.NoError(t, err)
		require.Equal(t, 2*time.Minute, wait)
		_, err = c.Timeout(t.Context(), "auth_file")
		require.ErrorContains(t, err, "is not a number")

		client := p.Connect(t)
		pause, err := openAnother(t, c).PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		<-pause.Done()
		_, err = client.Exec(t.Context(), "SELECT").ReadAll()
		require.ErrorContains(t, err, "query_timeout")
	})
}

func TestSet_Number_IsReadBack(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		for name, values := range map[string][]string{
			QueryWaitTimeout: {"7", "0.5", "120.0", "1000000000", "0"}, ClientIdleTimeout: {"0", "86400"}, ServerFastClose: {"1", "0"},
		} {
			for _, value := range values {
				require.NoError(t, c.Set(t.Context(), name, value))
				present, err := c.Setting(t.Context(), name)
				require.NoError(t, err)
				require.NoError(t, CheckSetting(name, present), "what pgbouncer shows can be written back")
				require.NoError(t, c.Set(t.Context(), name, present))
			}
		}
		_, err := c.Setting(t.Context(), "no_such_setting")
		require.ErrorContains(t, err, "no_such_setting")
	})
}

// A record, or a console, must not choose what is written with the admin's login.
func TestSet_OtherSettingOrNoNumber_NothingIsSent(t *testing.T) {
	sent := make(chan struct{}, 1)
	target := fakeServer(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		if _, err := backend.Receive(); err == nil {
			sent <- struct{}{}
		}
	})
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	for _, setting := range [][2]string{
		{"auth_type", "trust"}, {"auth_query", "SELECT 1"}, {"no_such_setting", "1"}, {"x = 1; SHUTDOWN", "1"}, {"", ""},
		{QueryWaitTimeout, ""}, {QueryWaitTimeout, "-1"}, {QueryWaitTimeout, "1e"}, {QueryWaitTimeout, "1000000001"}, {QueryWaitTimeout, "1e+99"},
		{QueryWaitTimeout, "NaN"}, {QueryWaitTimeout, "inf"}, {QueryWaitTimeout, "0x1p4"}, {QueryWaitTimeout, " 1"}, {QueryWaitTimeout, "1\n"},
		{QueryWaitTimeout, "1'; SHUTDOWN; --"}, {ServerFastClose, "2"}, {ServerFastClose, "yes"}, {"QUERY_WAIT_TIMEOUT", "1"},
	} {
		require.Error(t, c.Set(t.Context(), setting[0], setting[1]), "%q", setting)
	}
	c.Close()
	require.Empty(t, sent)
}

func TestCheckSetting_LongName_ErrorIsShort(t *testing.T) {
	require.Less(t, len(CheckSetting(strings.Repeat("x", 1<<20), "1").Error()), 2*maxText)
	require.Less(t, len(CheckSetting(QueryWaitTimeout, strings.Repeat("\x00", 1<<20)).Error()), 2*maxText)
}
