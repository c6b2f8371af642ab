package postgres

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// slowLogin is a client's connection whose second message waits until it may be sent.
type slowLogin struct {
	net.Conn
	may  chan struct{}
	once sync.Once
	sent bool
}

func (c *slowLogin) Write(b []byte) (int, error) {
	if c.sent {
		c.once.Do(func() { <-c.may })
	}
	c.sent = true
	return c.Conn.Write(b)
}

// connectSlowly connects to a database. While it logs in, pgbouncer puts the database among the forgotten ones.
func connectSlowly(t *testing.T, p *parts.Pooler, console *pgbouncer.Console, name string) *pgconn.PgConn {
	t.Helper()
	config, err := pgconn.ParseConfig("sslmode=disable")
	require.NoError(t, err)
	config.Host, config.Database, config.User, config.Password = "pooler", name, parts.App.Name, parts.App.Password
	may := make(chan struct{})
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := p.Dial(ctx)
		return &slowLogin{Conn: conn, may: may}, err
	}
	connected := make(chan *pgconn.PgConn, 1)
	go func() {
		client, err := pgconn.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Error(err)
		}
		connected <- client
	}()
	require.Eventually(t, func() bool { return shows(t, console, name) }, 30*time.Second, 10*time.Millisecond, "the login begins")
	require.Eventually(t, func() bool { return !shows(t, console, name) }, 30*time.Second, 10*time.Millisecond, "the database is forgotten")
	close(may)
	client := <-connected
	require.NotNil(t, client)
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	return client
}

func shows(t *testing.T, console *pgbouncer.Console, name string) bool {
	t.Helper()
	all, err := console.Databases(t.Context())
	require.NoError(t, err)
	return slices.ContainsFunc(all, func(d pgbouncer.Database) bool { return d.Name == name })
}

// A database that pgbouncer made from the entry "*" may be in use and not shown. It is found all the same, with its host, and paused.
func TestLook_DatabaseInUseAndNotShown_FoundAndPaused(t *testing.T) {
	parts.Each(t, parts.Options{Aliases: []string{"*"}}, func(t *testing.T, p *parts.Pooler) {
		opened, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer opened.Close()
		console := opened.(*poolerConsole)
		client := connectSlowly(t, p, console.main, "hidden")
		require.False(t, shows(t, console.main, "hidden"), "with a client")

		state, err := console.Look(t.Context())
		require.NoError(t, err)
		i := slices.IndexFunc(state.Databases, func(d PoolerDatabase) bool { return d.Name == "hidden" })
		require.NotEqual(t, -1, i, "%+v", state.Databases)
		require.Equal(t, "127.0.0.1", state.Databases[i].Host)

		require.NoError(t, console.Pause(t.Context(), "hidden"))
		answered := make(chan error, 1)
		go func() {
			_, err := client.Exec(t.Context(), "SELECT 1").ReadAll()
			answered <- err
		}()
		require.Eventually(t, func() bool { return waits(t, console.main, "hidden") }, 30*time.Second, 10*time.Millisecond)
		require.Empty(t, answered)
		require.NoError(t, console.Resume(t.Context(), "hidden"))
		require.NoError(t, <-answered)
	})
}

// waits reports whether a client of a database waits.
func waits(t *testing.T, console *pgbouncer.Console, name string) bool {
	t.Helper()
	pools, err := console.Pools(t.Context())
	require.NoError(t, err)
	return slices.ContainsFunc(pools, func(p pgbouncer.Pool) bool { return p.Database == name && p.ClientsWaiting > 0 })
}

// A login to such a database would make a pool of the console's own user there.
func TestHiddenFrom_OnlyPgbouncerItselfAsks_NotInUse(t *testing.T) {
	pools := pgbouncer.Pools{
		{Database: "shown", User: "app", Clients: 1}, {Database: "asked", User: "asker", ClientsWaiting: 1}, {Database: "left", User: "app", Servers: 1},
		{Database: "used", User: "app", Clients: 1}, {Database: "used", User: "other", ClientsWaiting: 1},
	}
	require.Equal(t, []string{"used"}, hiddenFrom([]pgbouncer.Database{{Name: "shown"}}, pools, "asker"))
	require.Equal(t, []string{"asked", "used"}, hiddenFrom([]pgbouncer.Database{{Name: "shown"}}, pools, ""))
}
