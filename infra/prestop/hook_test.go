package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

const (
	waitTimeout  = time.Minute // of a condition on a busy machine
	waitInterval = 10 * time.Millisecond
	// quiet is a quiet period that clients of a busy machine keep up with.
	quiet = time.Second
)

// quick are settings of a hook that signals at once, in a pod whose grace period no test reaches.
func quick(p *parts.Pooler) options {
	return options{pid: p.PID(), grace: time.Hour, acceptFor: time.Minute}
}

// running is a hook that runs beside the test.
type running struct {
	t     *testing.T
	mutex sync.Mutex
	text  bytes.Buffer
	ended chan error
}

func (r *running) Write(text []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.text.Write(text)
}

func (r *running) log() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.text.String()
}

// start starts a hook, which ends with the test.
func start(t *testing.T, o options, change ...func(*hook)) *running {
	t.Helper()
	r := &running{t: t, ended: make(chan error, 1)}
	h := newHook(o, slog.New(slog.NewTextHandler(r, nil)))
	for _, c := range change {
		c(h)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	go func() { r.ended <- h.run(ctx) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hook's log:\n%s", r.log())
		}
	})
	return r
}

func (r *running) awaitLog(text string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return strings.Contains(r.log(), text) }, waitTimeout, waitInterval, text)
}

// saidAt returns the time of the first message with this text.
func (r *running) saidAt(text string) time.Time {
	r.t.Helper()
	for line := range strings.Lines(r.log()) {
		if stamp, rest, _ := strings.Cut(strings.TrimPrefix(line, "time="), " "); strings.Contains(rest, text) {
			at, err := time.Parse(time.RFC3339Nano, stamp)
			require.NoError(r.t, err)
			return at
		}
	}
	require.Fail(r.t, "the hook has not said this", text)
	return time.Time{}
}

// awaitEnd waits until the hook has returned, and requires that the pooler is gone by then.
func (r *running) awaitEnd(p *parts.Pooler) {
	r.t.Helper()
	select {
	case err := <-r.ended:
		require.NoError(r.t, err)
	case <-time.After(waitTimeout):
		require.Fail(r.t, "the hook does not return")
	}
	if p != nil {
		<-p.Ended()
		require.Contains(r.t, r.log(), "pgbouncer has exited")
	}
}

func (r *running) requireRuns() {
	r.t.Helper()
	select {
	case err := <-r.ended:
		require.Fail(r.t, "the hook has returned", "%v", err)
	default:
	}
}

const (
	sentSignal    = "sent SIGINT"
	alreadyClosed = "pgbouncer is shutting down already"
)

// busy counts what clients see that run one transaction after the other until the pooler ends.
type busy struct {
	group     sync.WaitGroup
	mutex     sync.Mutex
	committed int
	cut       []error
}

func work(t *testing.T, p *parts.Pooler, clients int) *busy {
	t.Helper()
	b := &busy{}
	for range clients {
		client := p.Connect(t)
		b.group.Go(func() {
			for b.transaction(client) {
			}
		})
	}
	require.Eventually(t, func() bool { return b.commits() > 2*clients }, waitTimeout, waitInterval)
	return b
}

// transaction runs one, and reports whether another may follow. An error at BEGIN cuts nothing.
func (b *busy) transaction(client *pgconn.PgConn) bool {
	ctx := context.Background()
	if _, err := client.Exec(ctx, "BEGIN").ReadAll(); err != nil {
		return false
	}
	for _, sql := range []string{"SELECT pg_sleep(0.03)", "COMMIT"} {
		if _, err := client.Exec(ctx, sql).ReadAll(); err != nil {
			b.mutex.Lock()
			defer b.mutex.Unlock()
			b.cut = append(b.cut, fmt.Errorf("%s: %w", sql, err))
			return false
		}
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.committed++
	return true
}

func (b *busy) commits() int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.committed
}

// requireNothingCut waits until all clients have ended.
func (b *busy) requireNothingCut(t *testing.T) {
	t.Helper()
	b.group.Wait()
	require.Empty(t, b.cut)
}

// inTransaction returns a client with an open transaction.
func inTransaction(t *testing.T, p *parts.Pooler) *pgconn.PgConn {
	t.Helper()
	client := p.Connect(t)
	parts.Exec(t, client, "BEGIN")
	return client
}

// console returns a login to the pooler's console.
func console(t *testing.T, p *parts.Pooler) *pgconn.PgConn {
	t.Helper()
	session, err := postgres.Connect(t.Context(), p.Addr, parts.Admin, "pgbouncer")
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close(context.WithoutCancel(t.Context())) })
	return session
}

func TestHook_BusyClients_NoTransactionCut(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		b := work(t, p, 20)
		r := start(t, quick(p))
		r.awaitEnd(p)
		b.requireNothingCut(t)
		require.Equal(t, 1, strings.Count(r.log(), sentSignal))
	})
}

// The kubelet sends SIGTERM as soon as the hook returns.
func TestHook_OpenTransaction_WaitsForIt(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		client, idle := inTransaction(t, p), p.Connect(t)
		r := start(t, quick(p))
		r.awaitLog(sentSignal)
		r.awaitLog(`msg="waiting for open transactions" clients=2 servers=1`)
		r.requireRuns()
		parts.Exec(t, client, "COMMIT")
		r.awaitEnd(p)
		_, err := idle.Exec(t.Context(), "SELECT 1").ReadAll()
		require.Error(t, err)
	})
}

func TestHook_NewClients_DelayTheSignal(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		o := quick(p)
		o.quietFor = 4 * quiet // a busy machine keeps clients waiting
		p.Connect(t)           // one from before delays nothing
		r := start(t, o)
		r.awaitLog("waiting until no new clients come")
		for began := time.Now(); time.Since(began) < 2*o.quietFor; time.Sleep(lookInterval) {
			client, err := p.Dial(t.Context())
			require.NoError(t, err)
			defer client.Close()
			require.NotContains(t, r.log(), sentSignal, "after %v", time.Since(began))
		}
		last := time.Now()
		r.awaitEnd(p)
		require.Contains(t, r.log(), "no new clients come")
		require.GreaterOrEqual(t, time.Since(last), o.quietFor-2*lookInterval)
	})
}

// The quiet period begins with the first look, however late that is.
func TestHook_LateFirstLook_WholeQuietPeriod(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	o := quick(p)
	o.quietFor = quiet
	r := start(t, o, func(h *hook) { h.began = h.began.Add(-quiet) })
	r.awaitEnd(p)
	require.GreaterOrEqual(t, r.saidAt(sentSignal).Sub(r.saidAt("waiting until no new clients come")), quiet)
}

func TestHook_NewClientsForEver_SignalAfterAcceptFor(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	o := quick(p)
	o.quietFor, o.acceptFor = time.Hour, quiet
	began := time.Now()
	r := start(t, o)
	r.awaitEnd(p)
	require.GreaterOrEqual(t, time.Since(began), quiet)
	require.Contains(t, r.log(), "new clients may still come")
}

func TestHook_GraceTooShort_SaysWhatIsAborted(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		client := inTransaction(t, p)
		p.Connect(t)
		o := quick(p)
		o.grace = graceMargin + quiet
		r := start(t, o)
		r.awaitLog(`level=ERROR msg="the grace period ends: open transactions will be aborted, and sessions disconnected" clients=2 servers=1`)
		require.True(t, r.saidAt(sentSignal).Before(r.saidAt("the grace period ends")))
		r.requireRuns() // until it is killed
		parts.Exec(t, client, "COMMIT")
		r.awaitEnd(p)
	})
}

func TestHook_LongWait_ProgressLogged(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	client := inTransaction(t, p)
	r := start(t, quick(p))
	const line = `msg="waiting for open transactions" clients=1 servers=1`
	require.Eventually(t, func() bool { return strings.Count(r.log(), line) > 1 }, waitTimeout, waitInterval)
	parts.Exec(t, client, "COMMIT")
	r.awaitEnd(p)
}

// From 1.23 on, a second signal ends pgbouncer at once. The shutdown may have begun before the hook, or while it waits.
func TestHook_ShutdownBegunOnTheConsole_NoSignalSent(t *testing.T) {
	t.Parallel()
	for what, quietFor := range map[string]time.Duration{"before": 0, "meanwhile": time.Minute} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, parts.Newer, parts.Options{})
			client, admin := inTransaction(t, p), console(t, p)
			o := quick(p)
			o.quietFor = quietFor
			var r *running
			if quietFor > 0 {
				r = start(t, o)
				r.awaitLog("waiting until no new clients come")
			}
			parts.Exec(t, admin, "SHUTDOWN WAIT_FOR_SERVERS")
			if r == nil {
				r = start(t, o)
			}
			r.awaitLog("waiting for open transactions")
			require.Contains(t, r.log(), alreadyClosed)
			parts.Exec(t, client, "COMMIT")
			r.awaitEnd(p)
			require.NotContains(t, r.log(), sentSignal)
		})
	}
}

// The escort of quiesce holds a console, sees that the shutdown has begun, and makes it more urgent.
func TestHook_ShutdownOnTheConsoleFollows_TransactionFinishes(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	client, admin := inTransaction(t, p), console(t, p)
	_, err := admin.Exec(t.Context(), "RESUME").ReadAll()
	require.ErrorContains(t, err, "not paused")
	r := start(t, quick(p))
	r.awaitLog(sentSignal)
	require.Eventually(t, func() bool {
		_, err := admin.Exec(t.Context(), "RESUME").ReadAll()
		return err != nil && strings.Contains(err.Error(), "pooler is shutting down")
	}, waitTimeout, waitInterval)
	parts.Exec(t, admin, "SHUTDOWN WAIT_FOR_SERVERS")
	parts.Exec(t, client, "COMMIT")
	r.awaitEnd(p)
}

// Before 1.23, a pause leaves the ports open, and SIGINT adds the exit to it.
func TestHook_PausedOnTheConsole_TransactionFinishes(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	client, admin := inTransaction(t, p), console(t, p)
	var pause sync.WaitGroup // ends with pgbouncer
	p.RequireLogs(t, "PAUSE command issued", func() {
		pause.Go(func() { _, _ = admin.Exec(context.Background(), "PAUSE").ReadAll() })
	})
	r := start(t, quick(p))
	r.awaitLog(sentSignal)
	parts.Exec(t, client, "COMMIT")
	r.awaitEnd(p)
	pause.Wait()
}

// A kubelet that starts again runs the hook again.
func TestHook_AnotherHookHasSignaled_TransactionFinishes(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		client := inTransaction(t, p)
		first := start(t, quick(p))
		p.RequireLogs(t, "got SIGINT", func() { first.awaitLog(sentSignal) })
		second := start(t, quick(p))
		second.awaitLog("waiting for open transactions")
		parts.Exec(t, client, "COMMIT")
		first.awaitEnd(p)
		second.awaitEnd(p)
	})
}

// hidden makes a /proc in which a pooler's sockets cannot be seen, as those of a process that has changed its user.
func hidden(t *testing.T, p *parts.Pooler) func(*hook) {
	t.Helper()
	proc := t.TempDir()
	folder := filepath.Join(proc, fmt.Sprint(p.PID()))
	require.NoError(t, os.Mkdir(folder, 0o755))
	for _, name := range []string{"stat", "net"} {
		require.NoError(t, os.Symlink(fmt.Sprintf("/proc/%d/%s", p.PID(), name), filepath.Join(folder, name)))
	}
	return func(h *hook) { h.proc = proc }
}

func TestHook_SocketsHidden_SignalsAfterAcceptFor(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	client := inTransaction(t, p)
	o := quick(p)
	o.acceptFor = quiet
	began := time.Now()
	r := start(t, o, hidden(t, p))
	r.awaitLog(sentSignal)
	require.GreaterOrEqual(t, time.Since(began), quiet)
	require.Contains(t, r.log(), "set --port")
	parts.Exec(t, client, "COMMIT")
	r.awaitEnd(p)
}

func TestHook_SocketsHiddenPortGiven_ClientsSeen(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	client := inTransaction(t, p)
	o := quick(p)
	_, err := fmt.Sscanf(p.Addr, "127.0.0.1:%d", &o.port)
	require.NoError(t, err)
	first := start(t, o, hidden(t, p))
	first.awaitLog("clients=1 servers=-1")
	second := start(t, o, hidden(t, p))
	second.awaitLog(alreadyClosed)
	parts.Exec(t, client, "COMMIT")
	first.awaitEnd(p)
	second.awaitEnd(p)
}

func TestHook_NoProcess_ReturnsAtOnce(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	p.Signal(t, syscall.SIGTERM)
	<-p.Ended()
	o := quick(p)
	o.quietFor = time.Hour
	r := start(t, o)
	r.awaitEnd(nil)
	require.Contains(t, r.log(), "no pgbouncer runs here")
}

func TestHook_DryRun_ChangesNothing(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	client := inTransaction(t, p)
	o := quick(p)
	o.dryRun = true
	r := start(t, o)
	r.awaitEnd(nil)
	require.Contains(t, r.log(), "found pgbouncer")
	require.Contains(t, r.log(), "clients=1 servers=1")
	parts.Exec(t, client, "COMMIT")
	require.Nil(t, p.State())
}
