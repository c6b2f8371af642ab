package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// pgbouncer takes no console while it shuts down. The next escort must not take that for a console that cannot be used.
func TestSurge_DrainEndsDuringShutdown_NextEscortWaitsForTransactions(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	w.interrupt(t, "SHUTDOWN WAIT_FOR_SERVERS")
	require.True(t, w.saved().isShuttingDown())
	require.Equal(t, "containerd://a", w.saved().Process)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	require.Eventually(t, func() bool { return w.count("acquired "+escort.GroupLease("pooler", "db", "uid-owner")) == 2 }, testTimeout, pollInterval)
	require.Never(t, func() bool { return w.count("unlabeled")+w.count("evicted") > 0 }, 2*time.Second, pollInterval)
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	require.Zero(t, w.count("unlabeled"), "the replacement stays")
	require.Equal(t, 1, w.count("evicted"))
}

func TestSurge_DrainEndsDuringShutdown_NextEscortEvictsAtTheTimeout(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newSurgeCluster(p)
	openTransaction(t, p)
	w.interrupt(t, "SHUTDOWN WAIT_FOR_SERVERS")
	result, err := w.escort(shortTimeout).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "surge", result.Strategy)
	require.Contains(t, result.Reason, "its shutdown was not over in time, and how many transactions were open is not known")
	require.Equal(t, 1, w.count("evicted"))
}

// keptConns are the connections that an escort has opened.
type keptConns struct {
	mutex sync.Mutex
	all   []net.Conn
}

func (k *keptConns) dial(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err == nil {
			k.mutex.Lock()
			defer k.mutex.Unlock()
			k.all = append(k.all, conn)
		}
		return conn, err
	}
}

// breakAll ends the connections as a tunnel that is restarted does.
func (k *keptConns) breakAll(t *testing.T) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, conn := range k.all {
		breakConn(t, conn)
	}
}

// breakNumber ends the connection that was opened as this one, unless the escort has closed it.
func (k *keptConns) breakNumber(t *testing.T, n int) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	breakConn(t, k.all[n])
}

func breakConn(t *testing.T, conn net.Conn) {
	if err := conn.(*net.TCPConn).CloseRead(); !errors.Is(err, net.ErrClosed) {
		require.NoError(t, err)
	}
}

func TestSurge_ConsoleIsLostDuringShutdown_WaitsForTransactions(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	kept.breakAll(t)
	require.Never(t, func() bool { return w.count("evicted") > 0 }, 2*time.Second, pollInterval)
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	require.Equal(t, 1, w.count("evicted"))
}

func TestShutDown_ConsoleIsLost_WaitsForTransactions(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	kept.breakAll(t)
	select {
	case err := <-ended:
		require.FailNow(t, "it is over while a transaction is open", err)
	case <-time.After(2 * time.Second):
	}
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
}

func TestRecover_FirstLoginFails_TriedAgainWhileItWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	text, err := json.Marshal(record{
		Strategy: config.StrategyEvict, Paused: true, Settings: map[string]string{pgbouncer.QueryWaitTimeout: "120", pgbouncer.ClientIdleTimeout: "0"},
	})
	require.NoError(t, err)
	w.record = text
	within(t, pause(t, p, openConsole(t, p)).Done())
	var dials atomic.Int32
	w.dial = func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return nil, errors.New("the API server is away for a moment")
		}
		return p.Dial(ctx)
	}
	w.held = func(string) bool { return true }
	waits := transacts(t, app)
	cancel, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	within(t, waits)
	require.Empty(t, w.callList(), "it is not its turn")
	over := errors.New("the invocation is over")
	cancel(over)
	require.ErrorIs(t, <-ended, over)
}

// A rollout, or kubectl drain, can delete the pod while its escort waits. What its hook delays is counted from then.
func TestEvict_TerminatedWhileItWaitsForItsTurn_StopsInTime(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(p)
	w.pod.Containers[0].PreStop, w.hookTime = []string{"sleep", "6"}, 6*time.Second
	var free atomic.Bool
	waits := make(chan struct{}, 1)
	w.held = func(string) bool {
		select {
		case waits <- struct{}{}:
		default:
		}
		return !free.Load()
	}
	type answer struct {
		drain.EscortResult
		err error
	}
	ended := make(chan answer, 1)
	go func() {
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		ended <- answer{result, err}
	}()
	within(t, waits)
	w.terminate(t)
	free.Store(true)
	got := <-ended
	require.NoError(t, got.err)
	require.Contains(t, got.Reason, "already terminating")
	require.Zero(t, w.count("dry run")+w.count("evicted"), "it is told to stop once")
	require.Contains(t, p.Log(t), "PAUSE command issued")
	require.NotContains(t, p.Log(t), "got SIGTERM, fast exit", "it is shut down before its hook ends")
}

// The API server is replaced while a pooler is paused through tunnels. pgbouncer answers over the next one.
func TestRun_ConsolesBreakDuringThePause_TriedAgain(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	requireTriedAgain(t, p, w, w.escort(minute), app, "evict")
}

// All tunnels end, but not at the same moment.
func TestRun_ConsolesBreakOneAfterTheOther_TriedAgain(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	p.RequireLogs(t, "PAUSE command issued", func() {})
	p.RequireLogs(t, "RESUME command issued", func() { kept.breakNumber(t, 1) })
	kept.breakNumber(t, 0)
	require.Never(t, func() bool { return w.count("evicted") > 0 }, 3*time.Second, pollInterval)
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	require.Equal(t, 1, w.count("evicted"))
}

// A surge has taken a label from the pod, and gets it back first.
func TestSurge_ConsolesBreakDuringThePause_TriedAgain(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	requireTriedAgain(t, p, w.fakeCluster, w.escort(minute), app, "surge")
}

func requireTriedAgain(t *testing.T, p *parts.Pooler, w *fakeCluster, e *Escort, app *pgconn.PgConn, strategy string) {
	t.Helper()
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	answers := make(chan drain.EscortResult, 1)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		result, err := e.Run(ctx, w.request(t))
		answers <- result
		return result, err
	})
	p.RequireLogs(t, "PAUSE command issued", func() {})
	kept.breakAll(t)
	require.Never(t, func() bool { return w.count("evicted") > 0 }, 3*time.Second, pollInterval)
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	result := <-answers
	require.Equal(t, strategy, result.Strategy)
	require.Empty(t, result.AbortedDetail)
	require.Equal(t, 1, w.count("evicted"))
}

// A StatefulSet gives the name of a deleted pod to the next one, which nobody would resume.
func TestRun_ConsolesBreakAndTheNextPodHasTheName_ThatIsNotPaused(t *testing.T) {
	t.Parallel()
	p, next := parts.Start(t, parts.Older, parts.Options{}), parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(p)
	openTransaction(t, p)
	var kept keptConns
	var replaced atomic.Bool
	w.dial = kept.dial(func(ctx context.Context) (net.Conn, error) {
		if replaced.Load() {
			return next.Dial(ctx)
		}
		return p.Dial(ctx)
	})
	e := w.escort(minute)
	e.ConnectVia = config.ViaPortForward
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return e.Run(ctx, w.request(t)) })
	p.RequireLogs(t, "PAUSE command issued", func() {})
	w.mutex.Lock()
	w.pod.UID = "another"
	w.mutex.Unlock()
	replaced.Store(true)
	kept.breakAll(t)
	require.NoError(t, <-ended)
	require.NotContains(t, next.Log(t), "login attempt: db=pgbouncer")
}

// The second try has what is left of the time, and no more.
func TestRun_ConsolesBreakAgainstALongTransaction_EndsInTime(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(p)
	openTransaction(t, p)
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	const timeout = 8 * time.Second
	began := time.Now()
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(timeout).Run(ctx, w.request(t)) })
	p.RequireLogs(t, "PAUSE command issued", func() {})
	time.Sleep(time.Until(began.Add(timeout - 2*time.Second))) // the moment is the subject
	kept.breakAll(t)
	require.NoError(t, <-ended)
	require.Less(t, time.Since(began), 2*timeout-2*time.Second)
}

// silentConn is a connection over which nothing comes or goes any more, and that does not end: its network drops packets.
type silentConn struct {
	net.Conn
	silent *atomic.Bool
	closed chan struct{}
	once   *sync.Once
}

func silently(silent *atomic.Bool, dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return silentConn{conn, silent, make(chan struct{}), &sync.Once{}}, nil
	}
}

func (c silentConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if errors.Is(err, io.EOF) && c.silent.Load() {
			<-c.closed
			return 0, net.ErrClosed
		}
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

func (c silentConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c silentConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// silenceTime is longer than a console waits for an answer.
const silenceTime = 8 * time.Second

func TestSurge_ConsoleIsSilentDuringShutdown_WaitsForTransactions(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	var silent atomic.Bool
	w.dial = silently(&silent, p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	silent.Store(true)
	require.Never(t, func() bool { return w.count("evicted") > 0 }, silenceTime, pollInterval)
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	require.Equal(t, 1, w.count("evicted"))
}

func TestShutDown_ConsoleIsSilent_WaitsForTransactions(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	var silent atomic.Bool
	w.dial = silently(&silent, p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	silent.Store(true)
	select {
	case err := <-ended:
		require.FailNow(t, "it is over while a transaction is open", err)
	case <-time.After(silenceTime):
	}
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
}

// The invocation ends while a pod is evicted whose pgbouncer shuts down. The next one must know of the shutdown.
func TestSurge_DrainEndsDuringEviction_RecordStays(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newSurgeCluster(p)
	openTransaction(t, p)
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("the invocation is over")
	_, err := w.escort(shortTimeout).Run(ctx, w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
		if !o.DryRun {
			cancel(over)
			return &drain.Throttled{}
		}
		return nil
	}))
	require.ErrorIs(t, err, over)
	require.True(t, w.saved().isShuttingDown())
	require.NotContains(t, w.pod.Labels, "app")
}

// A person deletes the pod with less grace than its hook takes, while the escort waits for its turn. The kubelet ends the hook then.
func TestEvict_TerminatedWithLessGraceThanItsHook_StopsInTime(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(p)
	w.pod.Containers[0].PreStop, w.hookTime = []string{"sleep", "25"}, 6*time.Second
	disconnectInTurn(t, p, 12, 700*time.Millisecond) // clients that disconnect by themselves are waited for
	w.terminate(t)
	w.pod.StopsBy = w.pod.Deleted.Add(w.hookTime)
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Contains(t, p.Log(t), "PAUSE command issued")
	require.NotContains(t, p.Log(t), "got SIGTERM, fast exit", "it is shut down before its hook is ended")
}

// disconnectInTurn connects clients, one of which disconnects after each pause, until the test ends.
func disconnectInTurn(t *testing.T, p *parts.Pooler, clients int, pause time.Duration) {
	apps := []*pgconn.PgConn{}
	for range clients {
		apps = append(apps, p.Connect(t))
	}
	var disconnecting sync.WaitGroup
	t.Cleanup(disconnecting.Wait) // before the clients' own cleanups
	disconnecting.Go(func() {
		for _, app := range apps {
			_ = app.Close(context.Background())
			if escort.Sleep(t.Context(), pause) != nil {
				return
			}
		}
	})
}

// An invocation is nearly over. What its pod gets is what its termination may take: the next invocation continues.
func TestEvict_ShortlyBeforeAHandOff_GraceIsWhole(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(p)
	w.pod.Grace = 30 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var grace time.Duration
	_, _ = w.escort(minute).Run(ctx, w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
		if !o.DryRun {
			grace = o.Grace
			cancel()
		}
		return nil
	}))
	require.GreaterOrEqual(t, grace, minute)
}

// A rollout deletes the paused pod, and its hook begins a shutdown. A RESUME would cancel that: pgbouncer would serve until it is killed.
func TestRun_HookHasBegunAShutdown_NotResumed(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	w.signal = syscall.SIGINT
	cancel, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) { return w.escort(minute).Run(ctx, w.request(t)) })
	p.RequireLogs(t, "PAUSE command issued", func() {})
	p.RequireLogs(t, "got SIGINT", func() { w.terminate(t) })
	cancel(drain.ErrEscortLate)
	require.ErrorIs(t, <-ended, drain.ErrEscortLate)
	parts.Exec(t, app, "COMMIT")
	within(t, p.Ended())
	require.NotNil(t, w.saved(), "it ends with the pod")
}

// A tunnel is opened by name. Before the pod was seen, the next pod of a StatefulSet may be the one that has it.
func TestRun_PodWasNeverSeen_NoTunnelIsOpened(t *testing.T) {
	t.Parallel()
	away := errors.New("the API server is overloaded")
	for name, connect := range map[string]func(w *fakeCluster) (Kubernetes, error){
		"not seen":      func(w *fakeCluster) (Kubernetes, error) { return unsteady{w, func() error { return away }}, nil },
		"not connected": func(*fakeCluster) (Kubernetes, error) { return nil, away },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := parts.Start(t, parts.Older, parts.Options{})
			w := newCluster(next)
			text, err := json.Marshal(record{Strategy: config.StrategyEvict, Paused: true})
			require.NoError(t, err)
			w.record = text
			e := w.escort(minute)
			e.ConnectVia = config.ViaPortForward
			e.Connect = func(context.Context) (Kubernetes, error) { return connect(w) }
			_, err = e.Run(t.Context(), w.request(t))
			require.NoError(t, err, "it is evicted")
			require.Zero(t, w.count("forwarded"))
			require.NotContains(t, next.Log(t), "login attempt")
		})
	}
}

// It was seen before its turn, and is replaced by the next pod of its StatefulSet while the API server is away.
func TestRun_PodIsReplacedWhileItWaitsAndIsNotSeenAgain_NextIsNotPaused(t *testing.T) {
	t.Parallel()
	next := parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(next)
	e := w.escort(minute)
	e.ConnectVia = config.ViaPortForward
	var looks atomic.Int32
	began := time.Now()
	e.Connect = func(context.Context) (Kubernetes, error) {
		return unsteady{w, func() error {
			if looks.Add(1) > 1 && time.Since(began) < findTimeout+time.Second {
				return errors.New("the API server is away")
			}
			if looks.Load() > 1 {
				w.mutex.Lock()
				w.pod.UID = "another"
				w.mutex.Unlock()
			}
			return nil
		}}, nil
	}
	_, err := e.Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Zero(t, w.count("forwarded"))
	require.NotContains(t, next.Log(t), "PAUSE")
}
