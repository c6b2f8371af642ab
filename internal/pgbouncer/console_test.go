package pgbouncer

import (
	"context"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

func TestMain(m *testing.M) { os.Exit(parts.Run(m)) }

const (
	// waitTimeout bounds waits on a busy computer. Only a test that fails waits this long.
	waitTimeout = 2 * time.Minute
	// pollInterval is the time between two checks of a condition.
	pollInterval = 5 * time.Millisecond
)

var (
	admin = parts.Admin
	stats = parts.Stats
)

func targetOf(p *parts.Pooler, as parts.User) Target {
	return Target{Dial: p.Dial, User: as.Name, Password: as.Password, TLS: TLSDisable}
}

func open(t *testing.T, p *parts.Pooler) *Console {
	t.Helper()
	c, err := Open(t.Context(), targetOf(p, admin))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func openAnother(t *testing.T, c *Console) *Console {
	t.Helper()
	second, err := c.OpenAnother(t.Context())
	require.NoError(t, err)
	t.Cleanup(second.Close)
	return second
}

// pause sends PAUSE and returns when it is in force.
func pause(t *testing.T, p *parts.Pooler, c *Console) *Pending {
	t.Helper()
	var pending *Pending
	p.RequireLogs(t, "PAUSE command issued", func() {
		var err error
		pending, err = c.Pause(t.Context())
		require.NoError(t, err)
	})
	return pending
}

// requirePaused fails unless pgbouncer is still paused: then it refuses another PAUSE.
func requirePaused(t *testing.T, c *Console) {
	t.Helper()
	require.ErrorIs(t, c.exec(t.Context(), "PAUSE", nil), ErrAlreadyPaused)
}

func awaitClosed(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(waitTimeout):
		require.FailNow(t, "it is not closed in time")
	}
}

func requireOpen(t *testing.T, waiting <-chan struct{}) {
	t.Helper()
	select {
	case <-waiting:
		require.FailNow(t, "it is closed already")
	default:
	}
}

func TestPause_ContextCanceled_StillWaitsForTransaction(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := openAnother(t, c)
		parts.Exec(t, app, "BEGIN")
		ctx, cancel := context.WithCancel(t.Context())
		pending, err := c.Pause(ctx)
		require.NoError(t, err)
		cancel()
		require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, waitTimeout, pollInterval)
		requirePaused(t, other)
		requireOpen(t, pending.Done())
		require.NoError(t, pending.Err())

		parts.Exec(t, app, "COMMIT")
		awaitClosed(t, pending.Done())
		require.NoError(t, pending.Err())
		requirePaused(t, other)
		require.NoError(t, other.Resume(t.Context()))
		parts.Exec(t, app, "SELECT")
	})
}

func TestResume_OtherConsolePauseWaits_PauseUnanswered(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := openAnother(t, c)
		parts.Exec(t, app, "BEGIN")
		pending := pause(t, p, c)
		require.NoError(t, other.Resume(t.Context()))
		parts.Exec(t, p.Connect(t), "SELECT")
		parts.Exec(t, app, "COMMIT")
		parts.Exec(t, app, "SELECT")
		requireOpen(t, pending.Done())
	})
}

func TestUndoPause_PauseNotReadYet_Resumes(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		app, another := p.Connect(t), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		for range 20 {
			c, other := open(t, p), open(t, p)
			pending, err := c.Pause(t.Context())
			require.NoError(t, err)
			require.NoError(t, other.UndoPause(t.Context(), pending))
			parts.Exec(t, another, "SELECT")
			c.Close()
		}
		parts.Exec(t, app, "COMMIT")
	})
}

func TestUndoPause_PauseComplete_Resumes(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		pending, err := c.Pause(t.Context())
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		require.NoError(t, c.UndoPause(t.Context(), pending))
		require.NoError(t, c.UndoPause(t.Context(), pending), "a second undo changes nothing")
		parts.Exec(t, app, "SELECT")
	})
}

func TestPause_ConsoleClosed_StaysInForce(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := openAnother(t, c)
		parts.Exec(t, app, "BEGIN")
		pending := pause(t, p, c)
		c.Close()
		awaitClosed(t, pending.Done())
		require.ErrorIs(t, pending.Err(), ErrClosed)
		requirePaused(t, other)
	})
}

func TestPause_AlreadyPaused_Error(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		first, err := c.Pause(t.Context())
		require.NoError(t, err)
		awaitClosed(t, first.Done())
		require.NoError(t, first.Err())
		second, err := c.Pause(t.Context())
		require.NoError(t, err)
		awaitClosed(t, second.Done())
		require.ErrorIs(t, second.Err(), ErrAlreadyPaused)
	})
}

func TestResume_NotPaused_NoError(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		require.NoError(t, open(t, p).Resume(t.Context()))
	})
}

func TestPause_Waiting_BlocksOtherCommands(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{})
	c, app := open(t, p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	pause(t, p, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Pools(ctx)
	require.ErrorIs(t, err, context.Canceled)
	parts.Exec(t, app, "COMMIT")
	_, err = c.Pools(t.Context())
	require.NoError(t, err, "the console is still usable")
}

// goroutines returns the number of goroutines that this package or pgconn started.
func goroutines() int {
	stacks := make([]byte, 1<<20)
	text := string(stacks[:runtime.Stack(stacks, true)])
	return strings.Count(text, "created by quiesce/internal/pgbouncer.(") + strings.Count(text, "created by github.com/jackc/pgx")
}

func TestClose_DuringPause_EndsAllGoroutines(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		before := goroutines()
		c := open(t, p)
		pending := pause(t, p, c)
		c.Close()
		c.Close()
		awaitClosed(t, pending.Done())
		require.Eventually(t, func() bool { return goroutines() == before }, waitTimeout, pollInterval)
	})
}

// notifying calls a function after each write, if there is one.
type notifying struct {
	net.Conn
	sent *atomic.Pointer[func()]
}

func (n notifying) Write(b []byte) (int, error) {
	written, err := n.Conn.Write(b)
	if then := n.sent.Load(); then != nil {
		(*then)()
	}
	return written, err
}

// A CancelRequest would resume pgbouncer.
func TestExec_NoAnswer_ClosesWithoutCancelRequest(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		var dials atomic.Int32
		target := targetOf(p, admin)
		var sent atomic.Pointer[func()] // called when a command is sent; nil: nothing
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			dials.Add(1)
			connection, err := p.Dial(ctx)
			return notifying{connection, &sent}, err
		}
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		defer c.Close()
		other := open(t, p)
		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		pause(t, p, other)

		p.Signal(t, syscall.SIGSTOP)
		ctx, cancel := context.WithCancel(t.Context())
		end := func() { cancel() }
		sent.Store(&end) // a command that is canceled before it is sent leaves the console usable
		_, err = c.Pools(ctx)
		require.ErrorIs(t, err, context.Canceled)
		awaitClosed(t, c.session.CleanupDone())
		p.Signal(t, syscall.SIGCONT)
		require.EqualValues(t, 1, dials.Load())
		requireOpen(t, c.Ended())

		_, err = c.Pools(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		requirePaused(t, open(t, p))
	})
}

func TestShutdown_Graceful_LetsTransactionCommit(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{})
	c, app := open(t, p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	require.NoError(t, c.Shutdown(t.Context(), WaitForClients))
	require.NoError(t, c.Shutdown(t.Context(), WaitForServers), "a shutdown can be made more urgent")
	shutting, err := c.ShuttingDown(t.Context())
	require.NoError(t, err)
	require.True(t, shutting)
	require.ErrorIs(t, c.Resume(t.Context()), ErrShuttingDown)
	pools, err := c.Pools(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, pools.InFlight())
	requireOpen(t, c.Ended())

	parts.Exec(t, app, "COMMIT")
	awaitClosed(t, c.Ended())
	awaitClosed(t, p.Ended())
	require.True(t, p.State().Success(), p.Log(t))
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForServers), ErrClosed)
	_, err = c.OpenAnother(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = Open(t.Context(), targetOf(p, admin))
	require.ErrorIs(t, err, ErrUnreachable)
}

// A person, or an operator during maintenance, may have paused pgbouncer.
func TestShuttingDown_Paused_StaysPaused(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{})
	c, other, app := open(t, p), open(t, p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	paused, err := c.IsPaused(t.Context())
	require.NoError(t, err)
	require.False(t, paused)
	pause(t, p, other)
	shutting, err := c.ShuttingDown(t.Context())
	require.NoError(t, err)
	require.False(t, shutting)
	paused, err = c.IsPaused(t.Context())
	require.NoError(t, err)
	require.True(t, paused)
	p.Signal(t, syscall.SIGTERM)
	require.Eventually(t, func() bool {
		shutting, err := c.ShuttingDown(t.Context())
		return err == nil && shutting
	}, waitTimeout, pollInterval)
	require.NotContains(t, p.Log(t), "RESUME")
}

func TestIsPaused_Before1_19_Unsupported(t *testing.T) {
	_, err := open(t, parts.Start(t, parts.Older, parts.Options{})).IsPaused(t.Context())
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestOpenAnother_SeveralProcesses_Refused(t *testing.T) {
	for setting, refused := range map[string]error{"0": nil, "1": ErrShared} {
		parts.Each(t, parts.Options{Settings: map[string]string{"so_reuseport": setting}}, func(t *testing.T, p *parts.Pooler) {
			another, err := open(t, p).OpenAnother(t.Context())
			require.ErrorIs(t, err, refused)
			if refused == nil {
				another.Close()
			}
		})
	}
}

func TestShutdown_Immediate_EndIsSuccess(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		require.NoError(t, c.Shutdown(t.Context(), Immediate))
		awaitClosed(t, c.Ended())
		awaitClosed(t, p.Ended())
	})
}

func TestShutdown_OlderGeneration_Unsupported(t *testing.T) {
	c := open(t, parts.Start(t, parts.Older, parts.Options{}))
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForServers), ErrUnsupported)
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForClients), ErrUnsupported)
	_, err := c.ShuttingDown(t.Context())
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestShuttingDown_AfterSIGTERM_True(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{})
	c, app := open(t, p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	shutting, err := c.ShuttingDown(t.Context())
	require.NoError(t, err)
	require.False(t, shutting)
	p.Signal(t, syscall.SIGTERM)
	require.Eventually(t, func() bool {
		shutting, err := c.ShuttingDown(t.Context())
		return err == nil && shutting
	}, waitTimeout, pollInterval)
}

func TestEnded_PgbouncerKilled_ClosesWithoutCommand(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		requireOpen(t, c.Ended())
		p.Signal(t, syscall.SIGKILL)
		awaitClosed(t, c.Ended())
		_, err := c.Pools(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.Pause(t.Context())
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestEnded_ClosedByUs_StaysOpen(t *testing.T) {
	c := open(t, parts.Start(t, parts.Newer, parts.Options{}))
	c.Close()
	_, err := c.Pools(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	requireOpen(t, c.Ended())
}

func TestReconnect_FastClose_EndsSessionAfterCommit(t *testing.T) {
	parts.Each(t, parts.Options{PoolMode: "session"}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		require.NoError(t, c.Set(t.Context(), "server_fast_close", "1"))
		require.NoError(t, c.Reconnect(t.Context()))
		pools, err := c.Pools(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, pools.InFlight())
		parts.Exec(t, app, "COMMIT")
		require.Eventually(t, func() bool {
			pools, err := c.Pools(t.Context())
			return err == nil && pools.InFlight() == 0
		}, waitTimeout, pollInterval)
	})
}

func TestConsole_StatsUser_ReadsButCannotCommand(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, err := Open(t.Context(), targetOf(p, stats))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Pools(t.Context())
		require.NoError(t, err)
		pending, err := c.Pause(t.Context())
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		require.ErrorIs(t, pending.Err(), ErrNotAdmin)
		require.ErrorIs(t, c.Resume(t.Context()), ErrNotAdmin)
		require.ErrorIs(t, c.Set(t.Context(), "query_wait_timeout", "1"), ErrNotAdmin)
	})
}
