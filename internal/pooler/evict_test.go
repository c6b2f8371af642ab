package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	parts "quiesce/test/parts/pgbouncer"
)

// minute is the usual timeout of an escort. No test takes that long.
const minute = time.Minute

// eachGeneration runs the test with two poolers of each generation. The first is to be drained.
func eachGeneration(t *testing.T, o parts.Options, test func(t *testing.T, drained, other *parts.Pooler)) {
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, parts.Start(t, version, o), parts.Start(t, version, o))
		})
	}
}

func TestEvict_BusyPooler_AbortsNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy := newCluster(drained), work(t, drained, other)
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
		require.Equal(t, "evict", result.Strategy)
		require.NotZero(t, result.Version)
		require.NotZero(t, result.Clients)
		require.NotZero(t, result.HeldBackSeconds)
		require.Empty(t, result.Reason)
		require.Empty(t, result.AbortedDetail)
		t.Logf("%+v", result)
		t.Log(w.callList())
	})
}

// A webhook may deny every change of a pod. The label of an escort only informs.
func TestEvict_LabelDenied_AbortsNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy := newCluster(drained), work(t, drained, other)
		w.labelFailure = errors.New("denied by a webhook")
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
		require.Equal(t, "evict", result.Strategy)
		require.Contains(t, result.Reason, "denied by a webhook")
		require.Empty(t, result.AbortedDetail)
	})
}

// unsteady is a cluster in which looking at the pod fails while look does.
type unsteady struct {
	*fakeCluster
	look func() error
}

func (u unsteady) Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error) {
	if err := u.look(); err != nil {
		return nil, err
	}
	return u.fakeCluster.Inspect(ctx, ref)
}

// The API server is replaced: one tunnel is not opened, or one write of the Lease fails. Each is before the first change.
func TestEvict_OneRequestFails_AbortsNothing(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]struct{ dial, look, save int32 }{
		"first login": {dial: 1}, "login, and the look before the next": {dial: 1, look: 3}, "second console": {dial: 2}, "record": {save: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drained, other := parts.Start(t, parts.Older, parts.Options{}), parts.Start(t, parts.Older, parts.Options{})
			w, busy := newCluster(drained), work(t, drained, other)
			var dials, saves atomic.Int32
			w.dial = func(ctx context.Context) (net.Conn, error) {
				if dials.Add(1) == fails.dial {
					return nil, errors.New("the API server is away for a moment")
				}
				return drained.Dial(ctx)
			}
			request := w.request(t)
			request.Save = func(ctx context.Context, record json.RawMessage, onlyCopy bool) error {
				if saves.Add(1) == fails.save {
					return escort.Temporary{Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}
				}
				return w.save(ctx, record, onlyCopy)
			}
			e, looks := w.escort(minute), new(atomic.Int32)
			e.ConnectVia = config.ViaPortForward // it looks at the pod before each console but the first
			e.Connect = func(context.Context) (Kubernetes, error) {
				return unsteady{w, func() error {
					if looks.Add(1) == fails.look {
						return errors.New("etcd has no leader for a moment")
					}
					return nil
				}}, nil
			}
			result, err := e.Run(t.Context(), request)
			require.NoError(t, err)
			within(t, drained.Ended())
			busy.requireNothingAborted(t)
			require.Equal(t, "evict", result.Strategy, result.Reason)
			require.Empty(t, result.AbortedDetail)
		})
	}
}

// The straggler commits when all others have gone on elsewhere. If they waited for it, the escort would end at its timeout. How long
// they wait is measured by make bench-pgbouncer, on a machine that does nothing else.
func TestEvict_LongTransaction_OthersDoNotWaitForIt(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy, straggler := newCluster(drained), work(t, drained, other), drained.Connect(t)
		parts.Exec(t, straggler, "BEGIN")
		committed := make(chan error, 1)
		go func() {
			for !busy.allAt(1) && t.Context().Err() == nil {
				time.Sleep(pollInterval)
			}
			_, err := straggler.Exec(context.Background(), "COMMIT").ReadAll()
			committed <- err
		}()
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		require.Empty(t, result.AbortedDetail)
		require.NoError(t, <-committed)
		busy.requireNothingAborted(t)
	})
}

func TestEvict_RefusedWhilePaused_ResumesAtOnce(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"blocked": &drain.Blocked{PDBs: []string{"db/pgbouncer"}}, "throttled": &drain.Throttled{}, "broken": errors.New("broken"),
		"denied by a webhook": &drain.Refused{Reason: `admission webhook "policy.example.com" denied the request`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, parts.Older, parts.Options{})
			w, waiting := newCluster(p), make(chan error, 1)
			_, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
				if o.DryRun {
					return nil
				}
				requirePaused(t, openConsole(t, p))
				go func() { waiting <- workOnce(p) }()
				return failure
			}))
			require.Equal(t, failure, err)
			require.NoError(t, <-waiting, "a client that waits for more than a second is turned away")
			w.requireRestored(t)
		})
	}
}

func TestEvict_BlockedOrDenied_ChangesNothing(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		for _, answer := range []error{
			&drain.Blocked{PDBs: []string{"db/pgbouncer"}}, &drain.Refused{Reason: `admission webhook "policy.example.com" denied the request`},
		} {
			w := newCluster(p)
			w.refuse = answer
			result, err := w.escort(minute).Run(t.Context(), w.request(t))
			require.Equal(t, answer, err)
			require.NotContains(t, p.Log(t), "PAUSE")
			require.NotContains(t, p.Log(t), "SHUTDOWN")
			require.Zero(t, result.HeldBackSeconds)
			w.requireRestored(t)
		}
	})
}

// A webhook may allow the dry run and deny the eviction. From 1.23 the eviction comes before the shutdown.
func TestEvict_DeniedAfterTheDryRun_IsRolledBack(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		denied := &drain.Refused{Reason: `admission webhook "policy.example.com" denied the request`}
		w, asked := newCluster(p), 0
		_, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
			if o.DryRun {
				return nil
			}
			asked++
			return denied
		}))
		require.Equal(t, error(denied), err)
		require.Equal(t, 1, asked)
		require.Equal(t, 1, strings.Count(strings.Join(w.callList(), " "), "released"), "the next pod of the group may stop")
		w.requireRestored(t)
	})
}

func TestEvict_AcceptedWithoutAnswer_NotRolledBack(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, "1.18", parts.Options{})
	w, busy := newCluster(p), work(t, p, parts.Start(t, "1.18", parts.Options{}))
	w.unanswered = true
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	busy.requireNothingAborted(t)
}

func TestEvict_DrainAbortedDuringPause_Resumes(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	aborted := errors.New("the instance came back")
	cancel, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, testTimeout, pollInterval)
	cancel(aborted)
	require.NoError(t, workOnce(p), "a client that waits for more than a second is turned away")
	require.ErrorIs(t, <-returned, aborted)
	parts.Exec(t, app, "COMMIT")
	w.requireRestored(t)
	require.NotContains(t, w.callList(), "evicted")
}

func TestEvict_TransactionOutlastsTimeout_IsCounted(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newCluster(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		result, err := w.escort(shortTimeout).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		require.Contains(t, w.callList(), "evicted")
		require.True(t, strings.HasPrefix(result.AbortedDetail, "1 transaction open"), result.AbortedDetail)
		require.Equal(t, 1, result.AbortedTransactions)
	})
}

// A pod that is evicted later has less than its grace period, or dies without a signal.
func TestEvict_EvictBy_EvictsWithOpenTransaction(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newCluster(p), p.Connect(t)
		w.pod.Grace = 5 * time.Second
		parts.Exec(t, app, "BEGIN")
		r := w.request(t)
		r.EvictBy = time.Now().Add(shortTimeout)
		result, err := w.escort(time.Hour).Run(t.Context(), r)
		require.NoError(t, err)
		require.Contains(t, w.callList(), "evicted")
		require.True(t, strings.HasPrefix(result.AbortedDetail, "1 transaction open"), result.AbortedDetail)
	})
}

// The moment limits the eviction only. After it, the pod has its grace period.
func TestEvict_HookOutlastsEvictBy_WaitsForTransaction(t *testing.T) {
	t.Parallel()
	for version, stops := range map[string]string{parts.Older: "PAUSE command issued", parts.Newer: "SHUTDOWN WAIT_FOR_SERVERS"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, version, parts.Options{})
			w, app := newCluster(p), openTransaction(t, p)
			w.pod.Containers[0].PreStop, w.hookTime = []string{"sleep", "12"}, 12*time.Second
			r := w.request(t)
			r.EvictBy = time.Now().Add(3 * time.Second)
			var result drain.EscortResult
			_, ended := inBackground(t, func(ctx context.Context) (_ drain.EscortResult, err error) {
				result, err = w.escort(minute).Run(ctx, r)
				return result, err
			})
			require.Eventually(t, func() bool { return strings.Contains(p.Log(t), stops) }, testTimeout, pollInterval)
			time.Sleep(time.Until(r.EvictBy.Add(time.Second)))
			parts.Exec(t, app, "COMMIT")
			require.NoError(t, <-ended)
			require.Empty(t, result.AbortedDetail)
			within(t, p.Ended())
		})
	}
}

// What the command of the hook does not say may take until the end of the grace period, longer than an escort may.
func TestEvict_HookOfUnknownLengthFrom1_23_WaitsForTransaction(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	w.pod.Containers[0].PreStop, w.hookTime, w.pod.Grace = []string{"sh", "/drain.sh"}, shortTimeout+3*time.Second, minute
	var result drain.EscortResult
	_, ended := inBackground(t, func(ctx context.Context) (_ drain.EscortResult, err error) {
		result, err = w.escort(shortTimeout).Run(ctx, w.request(t))
		return result, err
	})
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	within(t, p.Ended())
	require.Empty(t, result.AbortedDetail)
	require.Empty(t, result.Reason)
}

// A RESUME could reach another process than its PAUSE, which would then stay paused.
func TestEvict_SeveralProcessesBefore1_23_NotPaused(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{Settings: map[string]string{"so_reuseport": "1"}})
	w := newCluster(p)
	result, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "plain", result.Strategy)
	require.Contains(t, result.Reason, "several processes may share the port")
	require.NotContains(t, p.Log(t), "PAUSE command issued")
}

func TestEvict_SessionPooling_EndsBetweenTransactions(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{PoolMode: "session"}, func(t *testing.T, drained, other *parts.Pooler) {
		idle := drained.Connect(t)
		parts.Exec(t, idle, "SELECT")
		w, busy := newCluster(drained), work(t, drained, other)
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
		require.Contains(t, result.Reason, "session pooling")
		require.Empty(t, result.AbortedDetail)
		t.Logf("%+v", result)
	})
}

func TestEvict_SleepHookBefore1_23_PausesDuringSleep(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, "1.18", parts.Options{})
	w, busy := newCluster(p), work(t, p, parts.Start(t, "1.18", parts.Options{}))
	w.pod.Containers = []escort.Container{{Name: "pgbouncer", PreStop: []string{"sleep", "30"}}}
	w.hookTime = 30 * time.Second
	began := time.Now()
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	require.Less(t, time.Since(began), w.hookTime, "it stops before the hook ends")
	busy.requireNothingAborted(t)
	require.Equal(t, []string{acquired("uid-owner"), "dry run", "labeled", "evicted", "released"}, w.callList())
}

func TestEvict_DrainEndsAfterSIGTERM_PoolerShutsDown(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	over := errors.New("the invocation is over")
	cancel, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	c := openConsole(t, p)
	require.Eventually(t, func() bool {
		shutting, err := c.ShuttingDown(t.Context())
		return err == nil && shutting
	}, testTimeout, pollInterval)
	c.Close()
	require.NoError(t, escort.Sleep(t.Context(), 2*signalInterval))
	cancel(over)
	require.ErrorIs(t, <-returned, over)
	parts.Exec(t, app, "COMMIT")
	within(t, p.Ended())
	require.True(t, p.State().Success(), p.Log(t))
}
