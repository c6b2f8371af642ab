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
	// patience is how long a condition may take on a busy machine. No test waits this long unless it fails.
	patience = 2 * time.Minute
	// glance is how often a condition is looked at.
	glance = 5 * time.Millisecond
)

var (
	admin = parts.Admin
	stats = parts.Stats
)

func plain(p *parts.Pooler, as parts.User) Target {
	return Target{Dial: p.Dial, User: as.Name, Password: as.Password, TLS: TLSDisable}
}

func open(t *testing.T, p *parts.Pooler) *Console {
	t.Helper()
	c, err := Open(t.Context(), plain(p, admin))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func again(t *testing.T, c *Console) *Console {
	t.Helper()
	second, err := c.Again(t.Context())
	require.NoError(t, err)
	t.Cleanup(second.Close)
	return second
}

// pause pauses and returns when that is in force.
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

// requirePaused makes sure that the pooler is still paused: the older generation does not tell, but refuses to be paused again.
func requirePaused(t *testing.T, c *Console) {
	t.Helper()
	paused, known, err := c.State(t.Context())
	require.NoError(t, err)
	if known {
		require.True(t, paused)
		return
	}
	_, err = c.exec(t.Context(), "PAUSE")
	require.ErrorIs(t, err, ErrAlreadyPaused)
}

func within(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, "it takes too long")
	}
}

func still(t *testing.T, waiting <-chan struct{}) {
	t.Helper()
	select {
	case <-waiting:
		require.FailNow(t, "it is over already")
	default:
	}
}

func TestAPauseWaitsForTheOpenTransactionWhateverBecomesOfTheContext(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := again(t, c)
		parts.Exec(t, app, "BEGIN")
		ctx, cancel := context.WithCancel(t.Context())
		pending, err := c.Pause(ctx)
		require.NoError(t, err)
		cancel()
		require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, patience, glance)
		requirePaused(t, other)
		still(t, pending.Done())
		require.NoError(t, pending.Err())

		parts.Exec(t, app, "COMMIT")
		within(t, pending.Done())
		require.NoError(t, pending.Err())
		requirePaused(t, other)
		require.NoError(t, other.Resume(t.Context()))
		parts.Exec(t, app, "SELECT")
	})
}

func TestASecondConsoleUndoesAPauseThatWaitsWhichIsNeverAnswered(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := again(t, c)
		parts.Exec(t, app, "BEGIN")
		pending := pause(t, p, c)
		require.NoError(t, other.Resume(t.Context()))
		parts.Exec(t, p.Connect(t), "SELECT")
		parts.Exec(t, app, "COMMIT")
		parts.Exec(t, app, "SELECT")
		still(t, pending.Done())
	})
}

func TestAPauseIsUndoneEvenBeforeItIsRead(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		app, another := p.Connect(t), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		for range 20 {
			c, other := open(t, p), open(t, p)
			pending, err := c.Pause(t.Context())
			require.NoError(t, err)
			require.NoError(t, other.Undo(t.Context(), pending))
			parts.Exec(t, another, "SELECT")
			c.Close()
		}
		parts.Exec(t, app, "COMMIT")
	})
}

func TestUndoingACompletePauseIsResuming(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		pending, err := c.Pause(t.Context())
		require.NoError(t, err)
		within(t, pending.Done())
		require.NoError(t, c.Undo(t.Context(), pending))
		require.NoError(t, c.Undo(t.Context(), pending), "there is nothing left to undo")
		parts.Exec(t, app, "SELECT")
	})
}

func TestAPauseStaysInForceWhenItsConsoleIsClosed(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		other := again(t, c)
		parts.Exec(t, app, "BEGIN")
		pending := pause(t, p, c)
		c.Close()
		within(t, pending.Done())
		require.ErrorIs(t, pending.Err(), ErrClosed)
		requirePaused(t, other)
	})
}

func TestASecondPauseIsToldFromTheFirst(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		first, err := c.Pause(t.Context())
		require.NoError(t, err)
		within(t, first.Done())
		require.NoError(t, first.Err())
		second, err := c.Pause(t.Context())
		require.NoError(t, err)
		within(t, second.Done())
		require.ErrorIs(t, second.Err(), ErrAlreadyPaused)
	})
}

func TestResumingWhatIsNotPausedIsNoError(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		require.NoError(t, open(t, p).Resume(t.Context()))
	})
}

func TestOthersWaitForTheirTurnWhileAPauseWaits(t *testing.T) {
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
	require.NoError(t, err, "the console is as good as before")
}

// goroutines is how many were started by this package or by pgconn.
func goroutines() int {
	stacks := make([]byte, 1<<20)
	text := string(stacks[:runtime.Stack(stacks, true)])
	return strings.Count(text, "created by quiesce/internal/pgbouncer.(") + strings.Count(text, "created by github.com/jackc/pgx")
}

func TestClosingDuringAPauseLeavesNothingRunning(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		before := goroutines()
		c := open(t, p)
		pending := pause(t, p, c)
		c.Close()
		c.Close()
		within(t, pending.Done())
		require.Eventually(t, func() bool { return goroutines() == before }, patience, glance)
	})
}

// A cancel request would resume the pooler.
func TestACommandWithoutAnAnswerIsGivenUpAndNothingElseSent(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		var dials atomic.Int32
		target := plain(p, admin)
		target.Dial = func(ctx context.Context) (net.Conn, error) { dials.Add(1); return p.Dial(ctx) }
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		defer c.Close()
		other := open(t, p)
		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		pause(t, p, other)

		p.Signal(t, syscall.SIGSTOP)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(glance, cancel)
		_, err = c.Pools(ctx)
		require.ErrorIs(t, err, context.Canceled)
		within(t, c.session.CleanupDone())
		p.Signal(t, syscall.SIGCONT)
		require.EqualValues(t, 1, dials.Load())
		still(t, c.Ended())

		_, err = c.Pools(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		requirePaused(t, open(t, p))
	})
}

func TestAGracefulShutdownLetsTheTransactionCommit(t *testing.T) {
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
	still(t, c.Ended())

	parts.Exec(t, app, "COMMIT")
	within(t, c.Ended())
	within(t, p.Ended())
	require.True(t, p.State().Success(), p.Log(t))
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForServers), ErrClosed)
	_, err = c.Again(t.Context())
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestAnImmediateShutdownIsAnsweredByTheEnd(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		require.NoError(t, c.Shutdown(t.Context(), Immediate))
		within(t, c.Ended())
		within(t, p.Ended())
	})
}

func TestTheOlderGenerationCannotShutDownGracefullyNorSaySo(t *testing.T) {
	c := open(t, parts.Start(t, parts.Older, parts.Options{}))
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForServers), ErrUnsupported)
	require.ErrorIs(t, c.Shutdown(t.Context(), WaitForClients), ErrUnsupported)
	_, err := c.ShuttingDown(t.Context())
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestTheNewerGenerationIsSeenToHaveBeenSignalled(t *testing.T) {
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
	}, patience, glance)
}

func TestTheEndOfAPoolerIsNoticedWithoutAsking(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		still(t, c.Ended())
		p.Signal(t, syscall.SIGKILL)
		within(t, c.Ended())
		_, err := c.Pools(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.Pause(t.Context())
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestOurOwnClosingIsNotThePoolersEnd(t *testing.T) {
	c := open(t, parts.Start(t, parts.Newer, parts.Options{}))
	c.Close()
	_, err := c.Pools(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	still(t, c.Ended())
}

func TestSessionsAreShedByReconnectAndWaitClose(t *testing.T) {
	parts.Each(t, parts.Options{PoolMode: "session"}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		require.NoError(t, c.Set(t.Context(), "server_fast_close", "1"))
		require.NoError(t, c.Reconnect(t.Context()))
		pending, err := c.WaitClose(t.Context())
		require.NoError(t, err)
		still(t, pending.Done())
		parts.Exec(t, app, "COMMIT")
		within(t, pending.Done())
		require.NoError(t, pending.Err())
	})
}

func TestAWatcherMayLookButNotCommand(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, err := Open(t.Context(), plain(p, stats))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Pools(t.Context())
		require.NoError(t, err)
		pending, err := c.Pause(t.Context())
		require.NoError(t, err)
		within(t, pending.Done())
		require.ErrorIs(t, pending.Err(), ErrNotAdmin)
		require.ErrorIs(t, c.Resume(t.Context()), ErrNotAdmin)
		require.ErrorIs(t, c.Set(t.Context(), "query_wait_timeout", "1"), ErrNotAdmin)
	})
}
