package pooler

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/ports"
)

// surgeCluster is a cluster in memory. The label app decides whether the pod has its owner, and gets clients.
type surgeCluster struct {
	*fakeCluster
	readyAfter   time.Duration // until the replacement is Ready
	unlabeledAt  time.Time     // when the pod lost the label; zero: it has it
	keepsServing bool          // the endpoints do not follow
}

// newSurgeCluster has a single replica, under a PDB that never allows an eviction.
func newSurgeCluster(p *parts.Pooler) *surgeCluster {
	w := &surgeCluster{fakeCluster: newCluster(p)}
	app := labels{"app": "pgbouncer"}
	w.pod.Labels = labels{"app": "pgbouncer", "tier": "db"}
	w.selectors = escort.Selectors{
		Owner: &escort.Selector{Labels: app}, Replicas: 1,
		Services: []escort.Selector{{Name: "pgbouncer", Labels: app}},
		PDBs:     []escort.PDB{{Selector: escort.Selector{Name: "pgbouncer", Labels: app}, NeverReason: "there is one replica"}},
	}
	return w
}

func (w *surgeCluster) escort(timeout time.Duration) *Escort {
	e := w.fakeCluster.escort(timeout)
	e.Connect = func(context.Context) (Kubernetes, error) { return w, w.failure }
	return e
}

func (w *surgeCluster) PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error {
	err := w.fakeCluster.PatchLabels(ctx, ref, labels)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if _, labeled := w.pod.Labels["app"]; labeled {
		w.unlabeledAt = time.Time{}
	} else if w.unlabeledAt.IsZero() {
		w.unlabeledAt = time.Now()
	}
	return err
}

// Peers returns the pods of the owner, which orphans a pod without the label and makes another.
func (w *surgeCluster) Peers(_ context.Context, p escort.Pod) ([]escort.Peer, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	switch {
	case w.failure != nil:
		return nil, w.failure
	case p.Owner.UID != newPod().Owner.UID:
		return nil, nil
	case w.unlabeledAt.IsZero():
		return []escort.Peer{{Ref: w.pod.Ref, Ready: true, NodeLeaving: true}}, nil
	default:
		return []escort.Peer{{Ref: drain.Ref{UID: "uid-b"}, Ready: time.Since(w.unlabeledAt) >= w.readyAfter}}, nil
	}
}

func (w *surgeCluster) Serving(context.Context, drain.Ref) (bool, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.keepsServing || w.unlabeledAt.IsZero() && w.pod.Deleted.IsZero(), w.failure
}

// service sends connections to one pooler while the pod has its label, and to another afterwards.
type service struct {
	*parts.Pooler // for clients
	refused       atomic.Int32
}

// proxyLag is how long a node's proxy is behind the endpoints.
const proxyLag = 500 * time.Millisecond

func (w *surgeCluster) service(t *testing.T, drained, other *parts.Pooler) *service {
	backend := func() *parts.Pooler {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		if w.unlabeledAt.IsZero() || time.Since(w.unlabeledAt) < proxyLag {
			return drained
		}
		return other
	}
	s := &service{}
	s.Pooler = &parts.Pooler{Addr: ports.Serve(t, func(client net.Conn) { s.relay(client, backend()) })}
	return s
}

func (s *service) relay(client net.Conn, p *parts.Pooler) {
	server, err := p.Dial(context.Background())
	if err != nil {
		s.refused.Add(1)
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	_, _ = io.Copy(server, client)
}

func TestSurge_SingleReplica_AbortsAndRefusesNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w := newSurgeCluster(drained)
		w.readyAfter = time.Second
		service := w.service(t, drained, other)
		busy := work(t, service.Pooler)
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		before := busy.commits()
		require.Eventually(t, func() bool { return busy.commits() > before+crowd }, testTimeout, pollInterval, "they continue on the other pooler")
		busy.requireNothingAborted(t)
		require.Zero(t, service.refused.Load())
		require.Equal(t, "surge", result.Strategy)
		require.Equal(t, "PDB pgbouncer can never allow an eviction: there is one replica", result.Reason)
		require.GreaterOrEqual(t, result.Clients, crowd)
		require.NotZero(t, result.HeldBackSeconds)
		require.Empty(t, result.AbortedDetail)
		require.Equal(t, labels{"tier": "db", drain.EscortLabel: "surge"}, w.pod.Labels, "the label stays removed")
	})
}

// ready returns an escort that is about to surge. Its console is not used.
func (w *surgeCluster) ready(t *testing.T) *run {
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	r.version = pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}
	return r
}

func TestSurge_NotPossible_ChangesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*surgeCluster)
		why    string
	}{
		"a StatefulSet": {func(w *surgeCluster) { w.pod.Owner.Kind = "StatefulSet" }, "a StatefulSet makes no replacement"},
		"an impatient liveness probe": {func(w *surgeCluster) {
			w.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 5432}}, Liveness: escort.LivenessProbe{Port: 5432, Window: 3 * time.Second}}}
		}, "its liveness probe ends a shutdown that takes longer than 1.5s"},
		"a failing API server": {func(w *surgeCluster) { w.failure = errors.New("it is down") }, "it is down"},
	} {
		w := newSurgeCluster(nil)
		c.change(w)
		fallback, err := w.ready(t).surge(t.Context())
		require.NoError(t, err, name)
		require.Contains(t, fallback, "surge not possible: ", name)
		require.Contains(t, fallback, c.why, name)
		require.Empty(t, w.callList(), name)
	}
}

func TestSurge_NoReplacement_RestoresTheLabel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		w.readyAfter = time.Hour
		began := time.Now()
		fallback, err := w.ready(t).surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "no replacement was Ready in 1m0s", fallback)
		require.Equal(t, minute, time.Since(began))
		require.Equal(t, []string{"labeled", "unlabeled"}, w.callList())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

func TestSurge_EvictBy_WaitsHalfOfTheTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		w.readyAfter = time.Hour
		r, began := w.ready(t), time.Now()
		r.request.EvictBy = began.Add(20 * time.Second)
		fallback, err := r.surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "no replacement was Ready in 10s", fallback)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, []string{"labeled", "unlabeled"}, w.callList())
	})
}

func TestSurge_ServiceKeepsSending_RestoresTheLabel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		w.keepsServing = true
		fallback, err := w.ready(t).surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "a Service still sent clients to it after 10s", fallback)
		require.Equal(t, []string{"labeled", "unlabeled"}, w.callList())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

func TestSurge_DrainEnds_RestoresTheLabel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		w.readyAfter = time.Hour
		over := errors.New("the invocation is over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, over)
		defer cancel()
		r := w.ready(t)
		_, err := r.surge(ctx)
		require.ErrorIs(t, r.handleError(ctx, err), over)
		require.Equal(t, []string{"labeled", "unlabeled"}, w.callList())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

// noAnswer patches the label, and does not answer.
type noAnswer struct{ *surgeCluster }

func (n noAnswer) PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error {
	err := n.surgeCluster.PatchLabels(ctx, ref, labels)
	if labels[drain.EscortLabel] != nil {
		return errors.New("no answer")
	}
	return err
}

func TestSurge_PatchWithoutAnswer_RestoresTheLabel(t *testing.T) {
	w := newSurgeCluster(nil)
	r := w.ready(t)
	r.cluster = noAnswer{w}
	fallback, err := r.surge(t.Context())
	require.NoError(t, err)
	require.Contains(t, fallback, "no answer")
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
}

func TestReplaced_CountsReadyPeersThatStay(t *testing.T) {
	peer := func(uid string) escort.Peer { return escort.Peer{Ref: drain.Ref{UID: uid}, Ready: true} }
	own, ready, another, coming, going, terminating := peer("own"), peer("1"), peer("2"), peer("3"), peer("4"), peer("5")
	coming.Ready, going.NodeLeaving, terminating.Terminating = false, true, true
	for name, c := range map[string]struct {
		replicas int
		peers    []escort.Peer
		want     bool
	}{
		"none":                                 {1, nil, false},
		"only itself":                          {1, []escort.Peer{own}, false},
		"one that is not Ready yet":            {1, []escort.Peer{own, coming}, false},
		"one whose node is drained too":        {1, []escort.Peer{own, going}, false},
		"one that terminates":                  {1, []escort.Peer{own, terminating}, false},
		"one that serves":                      {1, []escort.Peer{own, ready}, true},
		"one of two":                           {2, []escort.Peer{ready, coming}, false},
		"both of two":                          {2, []escort.Peer{ready, another, terminating}, true},
		"one, and one that waits for its turn": {2, []escort.Peer{ready, going}, true},
		"none, and one that waits":             {2, []escort.Peer{going, coming}, false},
		"an owner that wants no pods":          {0, nil, false},
	} {
		require.Equal(t, c.want, replaced(c.peers, "own", c.replicas), name)
	}
}

func TestSelectors_SameMoment_AreReadOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		r := w.ready(t)
		read := func() int {
			_, err := r.selectors(t.Context())
			require.NoError(t, err)
			return w.selectorReads
		}
		require.Equal(t, 1, read())
		time.Sleep(selectorsMaxAge - time.Nanosecond)
		require.Equal(t, 1, read())
		time.Sleep(time.Nanosecond)
		require.Equal(t, 2, read(), "Services and PDBs may have changed")
		for _, want := range []int{2, 3} {
			_, err := r.findPod(t.Context(), w.pod.Ref)
			require.NoError(t, err)
			require.Equal(t, want, read(), "labels decide what selects a pod")
			w.pod.Labels["tier"] = "changed"
		}
	})
}

func TestSelectors_LookupFails_ReadAgain(t *testing.T) {
	w := newSurgeCluster(nil)
	r := w.ready(t)
	w.failure = errors.New("forbidden")
	_, err := r.selectors(t.Context())
	require.ErrorIs(t, err, w.failure)
	w.failure = nil
	_, err = r.selectors(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, w.selectorReads)
}
