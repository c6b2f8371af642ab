package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	parts "quiesce/test/parts/pgbouncer"
)

func TestShutDown_BusyPooler_AbortsNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy := newCluster(drained), work(t, drained, other)
		result, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
		require.Equal(t, "shutdown", result.Strategy)
		require.Empty(t, result.AbortedDetail)
		require.Nil(t, w.saved())
	})
}

func TestShutDown_TransactionOutlastsTimeout_IsCounted(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newCluster(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		result, err := w.escort(time.Second).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.True(t, strings.HasPrefix(result.AbortedDetail, "1 transaction open"), result.AbortedDetail)
	})
}

func TestShutDown_DrainAborted_Resumes(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	aborted := errors.New("the instance came back")
	cancel, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, testTimeout, pollInterval)
	cancel(aborted)
	require.ErrorIs(t, <-returned, aborted)
	require.NoError(t, workOnce(p))
	parts.Exec(t, app, "COMMIT")
	w.requireRestored(t)
}

// A move of a primary has the Lease of the group, and holds the clients: a pgbouncer that is shut down would drop them.
func TestShutDown_LeaseIsHeld_WaitsForItsTurn(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(p)
	var asked, free atomic.Bool
	w.held = func(string) bool { asked.Store(true); return !free.Load() }
	_, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	require.Eventually(t, asked.Load, testTimeout, pollInterval)
	require.NotContains(t, p.Log(t), "SHUTDOWN")
	require.NotContains(t, p.Log(t), "login attempt", "its console is opened in its turn")
	free.Store(true)
	require.NoError(t, <-returned)
	within(t, p.Ended())
	require.Contains(t, w.callList(), acquired("uid-owner"))
}

// probePort gives the pod a liveness probe that connects to pgbouncer, and ends the container when it has failed for so long.
func (w *fakeCluster) probePort(window time.Duration) {
	w.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 6432}}, Liveness: escort.LivenessProbe{Port: 6432, Window: window}}}
}

// The kubelet's SIGTERM would be the second signal of a shutdown that closes the port, and abort what is open.
func TestShutDown_LivenessProbeNeedsThePort_PausesInstead(t *testing.T) {
	t.Parallel()
	drained, other := parts.Start(t, parts.Newer, parts.Options{}), parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(drained)
	w.probePort(2 * time.Second)
	busy := work(t, drained, other)
	_, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, drained.Ended())
	busy.requireNothingAborted(t)
	require.Contains(t, drained.Log(t), "PAUSE command issued")
	require.Nil(t, w.saved())
}

// Clients of a node that is gone would hear nothing. So it is shut down, as long as the probe lets it.
func TestShutDown_LivenessProbeAndNoRecord_ShutDownAllTheSame(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	w.probePort(4 * time.Second)
	parts.Exec(t, app, "BEGIN")
	request := w.request(t)
	request.Save = func(context.Context, json.RawMessage, bool) error { return errors.New("there is no Lease") }
	result, err := w.escort(minute).ShutDown(t.Context(), request)
	require.ErrorContains(t, err, "there is no Lease", "its record may be there")
	within(t, p.Ended())
	require.Contains(t, result.Reason, "not paused: record the escort: there is no Lease")
	require.NotEmpty(t, result.AbortedDetail)
}

// A rollout deletes the pod while it waits: the kubelet's signal must stay the first.
func TestShutDown_DeletedWhileItWaits_LeftAlone(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(p)
	var asked, free atomic.Bool
	w.held = func(string) bool { asked.Store(true); return !free.Load() }
	_, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	require.Eventually(t, asked.Load, testTimeout, pollInterval)
	w.mutex.Lock()
	w.pod.Deleted = time.Now()
	w.mutex.Unlock()
	free.Store(true)
	require.NoError(t, <-returned)
	require.NotContains(t, p.Log(t), "login attempt")
}

// A shutdown over the pod's address needs nothing of the API server, but for a record before 1.23. A server that is replaced meanwhile must not
// keep pgbouncer from it.
func TestShutDown_APIServerGoesAway_ShutDownAllTheSame(t *testing.T) {
	t.Parallel()
	away := errors.New("the API server is away")
	failing := func(context.Context, json.RawMessage, bool) error { return away }
	hanging := func(ctx context.Context, _ json.RawMessage, _ bool) error { <-ctx.Done(); return context.Cause(ctx) }
	for name, c := range map[string]struct {
		cluster func(*fakeCluster) Kubernetes
		save    func(context.Context, json.RawMessage, bool) error
		time    time.Duration // of the drain's last step
		reason  string        // before 1.23
	}{
		"after its turn": {func(w *fakeCluster) Kubernetes {
			var looks atomic.Int32
			return unsteady{w, func() error {
				if looks.Add(1) > 1 {
					return away
				}
				return nil
			}}
		}, failing, testTimeout, "not paused: record the escort: "},
		"during its turn, without an answer": {func(w *fakeCluster) Kubernetes { return silentLease{w} }, failing, testTimeout, "not paused: record the escort: "},
		"when a record is written":           {func(w *fakeCluster) Kubernetes { return w }, hanging, 2 * shortTimeout, "not paused: record the escort: "},
		"when the pod is labeled":            {func(w *fakeCluster) Kubernetes { return silentLabel{w} }, nil, 2 * shortTimeout, "label the pod: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
				w := newCluster(p)
				w.pod.Containers = nil // so that the end of the console says enough
				e, cluster, request := w.escort(3*time.Second), c.cluster(w), w.request(t)
				e.Connect = func(context.Context) (Kubernetes, error) { return cluster, nil }
				if c.save != nil {
					request.Save = c.save
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.time)
				defer cancel()
				result, err := e.ShutDown(ctx, request)
				within(t, p.Ended())
				require.NoError(t, ctx.Err())
				isOlder := strings.Contains(result.Version, "1.18")
				if isOlder {
					require.Contains(t, result.Reason, c.reason)
				}
				require.Equal(t, isOlder && c.save != nil, err != nil, "the record may be there: %v", err)
			})
		})
	}
}

// silentLabel is a cluster that does not answer to who changes labels.
type silentLabel struct{ *fakeCluster }

func (silentLabel) PatchLabels(ctx context.Context, _ drain.Ref, _ map[string]*string) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// A move of a primary takes most of a minute.
func TestShutDown_LeaseIsNeverFree_WaitsForItsWholeTime(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(p)
	w.held = func(string) bool { return true }
	began := time.Now()
	const timeout = 3 * time.Second
	_, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(timeout).ShutDown(ctx, w.request(t))
	})
	p.RequireLogs(t, "SHUTDOWN WAIT_FOR_SERVERS", func() {})
	require.GreaterOrEqual(t, time.Since(began), timeout)
	require.NoError(t, <-returned)
}

// silentLease is a cluster that does not answer to who acquires a Lease.
type silentLease struct{ *fakeCluster }

func (silentLease) AcquireGroupLease(ctx context.Context, _ string) (func() error, bool, error) {
	<-ctx.Done()
	return nil, false, context.Cause(ctx)
}

// A shutdown that needs no console any more went on. A pause ends with its console.
func TestShutDown_ConsolesBreakDuringThePause_TriedAgain(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), openTransaction(t, p)
	w.probePort(2 * time.Second)
	var kept keptConns
	w.dial = kept.dial(p.Dial)
	_, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	p.RequireLogs(t, "PAUSE command issued", func() {})
	p.RequireLogs(t, "PAUSE command issued", func() { kept.breakAll(t) })
	parts.Exec(t, app, "COMMIT")
	require.NoError(t, <-ended)
	within(t, p.Ended())
	require.Nil(t, w.saved())
}

// What is open at the end of the drain's time is aborted by pgbouncer, which tells its clients, and is counted.
func TestShutDown_ProbesTimeOutlastsTheDrains_AbortsInTime(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	w.probePort(11 * time.Second)
	parts.Exec(t, app, "BEGIN")
	request := w.request(t)
	request.EvictBy = time.Now().Add(shortTimeout)
	request.Save = func(context.Context, json.RawMessage, bool) error {
		return escort.Temporary{Err: errors.New("there is no leader")}
	}
	ctx, cancel := context.WithDeadline(t.Context(), request.EvictBy.Add(2*time.Second))
	defer cancel()
	result, err := w.escort(minute).ShutDown(ctx, request)
	require.ErrorContains(t, err, "there is no leader", "its record may be there")
	within(t, p.Ended())
	require.NotEmpty(t, result.AbortedDetail)
}

func TestShutDown_NoConsole_Fails(t *testing.T) {
	t.Parallel()
	w := newCluster(parts.Start(t, parts.Newer, parts.Options{}))
	w.logins = nil
	_, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
	require.ErrorIs(t, err, escort.ErrNoLogin)
}
