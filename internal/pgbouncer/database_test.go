package pgbouncer

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

func TestDatabases_OfARealPooler_NameTargetAndPause(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		before, err := c.Databases(t.Context())
		require.NoError(t, err)
		require.Len(t, before, 1)
		require.Equal(t, "app", before[0].Name)
		require.Equal(t, "127.0.0.1", before[0].Host)
		require.False(t, before[0].Paused)
	})
}

func TestPauseDatabase_Client_WaitsUntilResumed(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app := open(t, p), p.Connect(t)
		parts.Exec(t, app, "SELECT")
		pending, err := c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		require.NoError(t, pending.Err())
		now, err := c.Databases(t.Context())
		require.NoError(t, err)
		require.True(t, now[0].Paused)
		done := make(chan error, 1)
		go func() {
			_, err := app.Exec(t.Context(), "SELECT").ReadAll()
			done <- err
		}()
		require.Eventually(t, func() bool {
			pools, err := c.Pools(t.Context())
			return err == nil && len(pools) == 1 && pools[0].ClientsWaiting == 1
		}, waitTimeout, pollInterval)
		require.NoError(t, c.ResumeDatabase(t.Context(), "app"))
		require.NoError(t, <-done)
		require.NoError(t, c.ResumeDatabase(t.Context(), "app"), "a second time changes nothing")
		require.NoError(t, c.ReconnectDatabase(t.Context(), "app"))
		parts.Exec(t, app, "SELECT")
	})
}

func TestPauseDatabase_OpenTransaction_IsWaitedFor(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, other, app := open(t, p), open(t, p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		pending, err := c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			now, err := other.Databases(t.Context())
			return err == nil && now[0].Paused
		}, waitTimeout, pollInterval)
		requireOpen(t, pending.Done())
		parts.Exec(t, app, "COMMIT")
		awaitClosed(t, pending.Done())
		require.NoError(t, pending.Err())
		require.NoError(t, other.ResumeDatabase(t.Context(), "app"))
		parts.Exec(t, app, "SELECT")
	})
}

// lingering notes how its end is set.
type lingering struct {
	net.Conn
	mutex   sync.Mutex
	seconds []int
}

func (l *lingering) SetLinger(seconds int) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.seconds = append(l.seconds, seconds)
	return l.Conn.(*net.TCPConn).SetLinger(seconds)
}

func (l *lingering) set() []int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return slices.Clone(l.seconds)
}

// A PAUSE that the network has held up must not come when its console has ended and others have resumed. What pgbouncer has got stays in force.
func TestPauseDatabase_ConsoleEndsBeforeTheAnswer_DiscardsWhatHasNotArrived(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		conn, target := &lingering{}, targetOf(p, admin)
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			var err error
			conn.Conn, err = p.Dial(ctx)
			return conn, err
		}
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		defer c.Close()
		other, app := open(t, p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		require.Equal(t, []int{0}, conn.set(), "an old RESUME or SET could come in the middle of another move")
		pending, err := c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		parts.Exec(t, app, "COMMIT")
		awaitClosed(t, pending.Done())
		require.NoError(t, other.ResumeDatabase(t.Context(), "app"))

		parts.Exec(t, app, "BEGIN")
		paused := func() bool {
			now, err := other.Databases(t.Context())
			return err == nil && now[0].Paused
		}
		pending, err = c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		require.Eventually(t, paused, waitTimeout, pollInterval)
		c.Close()
		awaitClosed(t, pending.Done())
		require.Equal(t, []int{0}, conn.set(), "it stays so")
		parts.Exec(t, app, "COMMIT")
		require.True(t, paused())
		require.NoError(t, other.ResumeDatabase(t.Context(), "app"))
		parts.Exec(t, app, "SELECT")
	})
}

// tunnel is a connection that cannot discard what it was given, as a forwarded one.
type tunnel struct{ net.Conn }

// A PAUSE that is not read in time is discarded with its console. Through a tunnel it may still come, and somebody must know.
func TestUndoPauseDatabase_PauseIsNotRead_ErrorIfItMayStillCome(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		for forwarded, want := range map[bool]error{false: nil, true: ErrUnread} {
			target := targetOf(p, admin)
			target.Dial = func(ctx context.Context) (net.Conn, error) {
				conn, err := p.Dial(ctx)
				if forwarded {
					conn = tunnel{conn}
				}
				return conn, err
			}
			c, err := Open(t.Context(), target)
			require.NoError(t, err)
			unread := &Pending{done: make(chan struct{}), forwarded: c.conn.isForwarded()}
			require.ErrorIs(t, c.UndoPauseDatabase(t.Context(), unread, "app"), want)
			c.Close()
		}
	})
}

func TestOldestTransaction_QuietClient_AgeGrows(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, app, busy := open(t, p), p.Connect(t), p.Connect(t)
		parts.Exec(t, busy, "SELECT")
		age, err := c.OldestTransaction(t.Context(), "app")
		require.NoError(t, err)
		require.Zero(t, age, "no transaction is open")
		parts.Exec(t, app, "BEGIN")
		require.Eventually(t, func() bool {
			age, err = c.OldestTransaction(t.Context(), "app")
			return err == nil && age >= 2*time.Second
		}, waitTimeout, pollInterval)
		other, err := c.OldestTransaction(t.Context(), "another")
		require.NoError(t, err)
		require.Zero(t, other)
		parts.Exec(t, app, "COMMIT")
		require.Eventually(t, func() bool {
			age, err = c.OldestTransaction(t.Context(), "app")
			return err == nil && age == 0
		}, waitTimeout, pollInterval)
	})
}

func TestDatabaseCommands_UnknownDatabase_ErrorOfItsOwn(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c := open(t, p)
		pending, err := c.PauseDatabase(t.Context(), "none")
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		require.ErrorIs(t, pending.Err(), ErrNoDatabase)
		require.NoError(t, c.ResumeDatabase(t.Context(), "none"))
		require.ErrorIs(t, c.ReconnectDatabase(t.Context(), "none"), ErrNoDatabase)
	})
}

func TestCommandFor_NameThatNoConsoleMayChoose_IsRefused(t *testing.T) {
	for _, name := range []string{"", database, "a\"; SHUTDOWN", "a'b", "a;b", "a\nb", "a\x00", `a\b`, strings.Repeat("a", 64)} {
		require.False(t, IsPausable(name), "%q", name)
		_, err := commandFor("PAUSE", name)
		require.Error(t, err, "%q", name)
		require.Less(t, len(err.Error()), 2*maxText)
	}
	require.True(t, IsPausable("orders-2024 EU"))
	command, err := commandFor("PAUSE", "orders-2024 EU")
	require.NoError(t, err)
	require.Equal(t, `PAUSE "orders-2024 EU"`, command)
}

func TestRow_NoTime_ErrorNamesTheColumn(t *testing.T) {
	for _, value := range []string{"", "now", "2026-13-01 00:00:00 UTC", strings.Repeat("1", 1<<20)} {
		r := rowOf("request_time", value)
		r.time("request_time")
		require.ErrorContains(t, r.err, "column request_time")
		require.Less(t, len(r.err.Error()), 2*maxText)
	}
	r := rowOf("request_time", "2026-11-26 20:04:33 CEST")
	require.Equal(t, time.Date(2026, 11, 26, 20, 4, 33, 0, time.UTC), r.time("request_time"))
	require.NoError(t, r.err)
}

func TestUndoPauseDatabase_OpenTransaction_ClientsGoOn(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		c, other, app := open(t, p), open(t, p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		pending, err := c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		require.NoError(t, other.UndoPauseDatabase(t.Context(), pending, "app"))
		parts.Exec(t, p.Connect(t), "SELECT")
		parts.Exec(t, app, "COMMIT")
		now, err := other.Databases(t.Context())
		require.NoError(t, err)
		require.False(t, now[0].Paused)
	})
}

func TestProveWrite_OfAPrimary_Succeeds(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		target := targetOf(p, parts.App)
		require.NoError(t, target.ProveWrite(t.Context(), "app"))
		require.Error(t, target.ProveWrite(t.Context(), "none"))
		c := open(t, p)
		pending, err := c.PauseDatabase(t.Context(), "app")
		require.NoError(t, err)
		awaitClosed(t, pending.Done())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.Error(t, target.ProveWrite(ctx, "app"), "a paused database proves nothing")
		require.NoError(t, c.ResumeDatabase(t.Context(), "app"))
	})
}
