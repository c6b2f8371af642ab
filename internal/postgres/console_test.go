package postgres

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
	real "quiesce/test/parts/postgres"
)

func TestMain(m *testing.M) { os.Exit(parts.Run(m)) }

// consolesOf opens consoles of a real pooler, as the admin.
func consolesOf(p *parts.Pooler) Consoles {
	return Consoles{escort.Consoles{
		Dial:   func(ctx context.Context, _ string) (net.Conn, error) { return p.Dial(ctx) },
		Logins: loginsOfUser(parts.Admin.Name, parts.Admin.Password),
		Port:   func(escort.Pod) int { return 6432 }, TLS: pgbouncer.TLSDisable,
	}}
}

// loginsOfUser yields one login.
func loginsOfUser(user, password string) escort.Logins {
	return func(context.Context, string) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) { yield(escort.Login{User: user, Password: password}, nil) }
	}
}

func TestConsole_RealPooler_PausesResumesAndReconnectsOneDatabase(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		console, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer console.Close()
		app := p.Connect(t)
		parts.Exec(t, app, "SELECT")
		state, err := console.Look(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2*time.Minute, state.QueryWait)
		require.Len(t, state.Databases, 1)
		require.Equal(t, "app", state.Databases[0].Name)
		require.Equal(t, "127.0.0.1", state.Databases[0].Host)
		require.False(t, state.Databases[0].Sessions)
		require.True(t, state.Databases[0].InUse)

		require.NoError(t, console.Pause(t.Context(), "app"))
		state, err = console.Look(t.Context())
		require.NoError(t, err)
		require.True(t, state.Databases[0].Paused)
		require.NoError(t, console.Resume(t.Context(), "app"))
		parts.Exec(t, app, "SELECT")
		require.NoError(t, console.Reconnect(t.Context(), "app"))
		parts.Exec(t, app, "SELECT")
	})
}

// With auth_user, pgbouncer asks the database for the passwords of users that its own file lacks.
func TestConsole_RealPooler_SaysWhetherItAsksForPasswords(t *testing.T) {
	for user, asks := range map[string]bool{"": false, "asker": true} {
		parts.Each(t, parts.Options{Settings: map[string]string{"auth_user": user}}, func(t *testing.T, p *parts.Pooler) {
			console, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
			require.NoError(t, err)
			defer console.Close()
			state, err := console.Look(t.Context())
			require.NoError(t, err)
			require.Equal(t, asks, state.AuthQuery)
		})
	}
}

func TestConsole_RealPoolerOfSeveralProcesses_SaidAndNotPaused(t *testing.T) {
	parts.Each(t, parts.Options{Settings: map[string]string{"so_reuseport": "1"}}, func(t *testing.T, p *parts.Pooler) {
		console, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer console.Close()
		state, err := console.Look(t.Context())
		require.NoError(t, err)
		require.True(t, state.Shared)
		require.ErrorIs(t, console.Pause(t.Context(), "app"), pgbouncer.ErrShared)
		require.NotContains(t, p.Log(t), "PAUSE")
	})
}

// askedConsole opens the console of a pooler as a user that pgbouncer asks a database for, as with CloudNativePG's own poolers.
func askedConsole(t *testing.T, role, database string) (*parts.Pooler, Console) {
	t.Helper()
	parts.Require(t)
	// A repeated run (-count) finds the role of the last one.
	real.Shared(t).Query(t, "DROP ROLE IF EXISTS "+role)
	real.Shared(t).Query(t, "CREATE ROLE "+role+" LOGIN PASSWORD 'of another'")
	p := parts.Start(t, "1.24", parts.Options{Aliases: []string{"side"}, Settings: map[string]string{
		"auth_user": "postgres", "auth_dbname": database, "admin_users": role,
	}})
	consoles := consolesOf(p)
	consoles.Logins = func(context.Context, string) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) {
			yield(escort.Login{User: role, Password: "of another"}, nil)
		}
	}
	console, err := consoles.Open(t.Context(), poolerPod("a"))
	require.NoError(t, err)
	t.Cleanup(console.Close)
	return p, console
}

// pauseWhileOpen pauses a database that has an open transaction, and ends the context of that when pgbouncer has the command. It returns the
// ended context, and the error of the pause.
func pauseWhileOpen(t *testing.T, p *parts.Pooler, console Console) (ended context.Context, failure error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	failures := make(chan error, 1)
	p.RequireLogs(t, "PAUSE 'app' command issued", func() { go func() { failures <- console.Pause(ctx, "app") }() })
	cancel()
	return ctx, <-failures
}

// Nobody must be locked out by a pause. Here the console's user is one that pgbouncer asks the paused database for.
func TestConsole_UserIsAskedOfThePausedDatabase_PauseFailsAndIsUndone(t *testing.T) {
	p, console := askedConsole(t, "stranger", "app")
	client := p.Connect(t)
	state, err := console.Look(t.Context())
	require.NoError(t, err)
	require.Len(t, state.Databases, 2, "a client is connected to it")
	require.ErrorIs(t, console.Pause(t.Context(), "app"), errNotReached)
	require.NoError(t, console.Resume(t.Context(), "app"))
	parts.Exec(t, client, "SELECT")
}

// A last move goes on though a transaction is open. It must not if nobody else could resume.
func TestConsole_UserIsAskedOfThePausedDatabaseAndATransactionIsOpen_PauseFails(t *testing.T) {
	p, console := askedConsole(t, "guest", "app")
	client := p.Connect(t)
	parts.Exec(t, client, "BEGIN")
	_, err := console.Look(t.Context())
	require.NoError(t, err)
	_, err = pauseWhileOpen(t, p, console)
	require.ErrorIs(t, err, errNotReached)
	require.NoError(t, console.Resume(t.Context(), "app"))
	parts.Exec(t, client, "COMMIT")
}

// Another console resumes then. What the network holds of the PAUSE must not come after that.
func TestConsole_ResumeFails_ConsoleOfThePauseIsClosed(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		console, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer console.Close()
		client := p.Connect(t)
		parts.Exec(t, client, "BEGIN")
		ended, err := pauseWhileOpen(t, p, console)
		require.Error(t, err)
		require.Error(t, console.Resume(ended, "app"), "the time is over")
		require.False(t, console.(*poolerConsole).pauseOf("app").console.Usable())
		require.True(t, console.Unread())
		require.NoError(t, console.Resume(t.Context(), "app"))
		parts.Exec(t, client, "COMMIT")
	})
}

// An application's database has no client at the moment. One that comes during the move must find it paused.
func TestConsole_DatabaseForPasswordsIsAnApplicationsToo_IsPausedWithoutClients(t *testing.T) {
	p, console := askedConsole(t, "visitor", "app")
	client := p.Connect(t)
	parts.Exec(t, client, "SELECT")
	require.NoError(t, client.Close(t.Context()))
	require.Eventually(t, func() bool {
		pools, err := console.(*poolerConsole).main.Pools(t.Context())
		return err == nil && poolsOf(pools, "app").Clients() == 0
	}, 10*time.Second, 20*time.Millisecond)
	state, err := console.Look(t.Context())
	require.NoError(t, err)
	require.Contains(t, []string{state.Databases[0].Name, state.Databases[len(state.Databases)-1].Name}, "app")
}

func TestConsole_UserIsAskedOfADatabaseForThat_ItIsNotPaused(t *testing.T) {
	p, console := askedConsole(t, "neighbor", "side")
	client := p.Connect(t)
	state, err := console.Look(t.Context())
	require.NoError(t, err)
	require.Len(t, state.Databases, 1)
	require.Equal(t, "app", state.Databases[0].Name)
	require.NoError(t, console.Pause(t.Context(), "app"))
	require.NoError(t, console.Resume(t.Context(), "app"))
	parts.Exec(t, client, "SELECT")
}

// The function is gone after PAUSE. Another one, which only has the mark, lets the clients go on.
func TestResumer_RealPoolerPausedByADeadFunction_ClientsGoOn(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		dead, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		_, err = pauseWhileOpen(t, p, dead)
		require.Error(t, err)
		dead.Close()

		w := newWorld()
		left := resumer{&incarnation{world: w}, consolesOf(p), slog.Default(), nil}.all(t.Context(),
			[]markedPooler{{poolerPod("a").Ref, []string{"app"}, "15"}}, nil)
		require.Empty(t, left)
		parts.Exec(t, p.Connect(t), "SELECT")
		parts.Exec(t, app, "COMMIT")
	})
}

func TestConsole_SessionsInUse_AreSeen(t *testing.T) {
	parts.Each(t, parts.Options{PoolMode: "session"}, func(t *testing.T, p *parts.Pooler) {
		console, err := consolesOf(p).Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer console.Close()
		parts.Exec(t, p.Connect(t), "SELECT")
		state, err := console.Look(t.Context())
		require.NoError(t, err)
		require.True(t, state.Databases[0].Sessions)
	})
}

// A login that may only look cannot resume either, so nothing must be paused with it.
func TestCheckCommands_LoginWithoutCommands_IsAnError(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		consoles := consolesOf(p)
		consoles.Logins = func(context.Context, string) iter.Seq2[escort.Login, error] {
			return func(yield func(escort.Login, error) bool) {
				yield(escort.Login{User: parts.Stats.Name, Password: parts.Stats.Password}, nil)
			}
		}
		console, err := consoles.Open(t.Context(), poolerPod("a"))
		require.NoError(t, err)
		defer console.Close()
		_, err = console.Look(t.Context())
		require.NoError(t, err, "a plan may look")
		require.ErrorIs(t, console.CheckCommands(t.Context()), pgbouncer.ErrNotAdmin)
	})
}
