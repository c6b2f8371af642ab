package pooler

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// web is a cluster in memory in which the label app decides who owns the pod and who sends it clients.
type web struct {
	*world
	takes   time.Duration // until the replacement is Ready
	without time.Time     // since when the pod has been without the label
	stuck   bool          // the endpoints do not follow
}

// webOf has a single replica, under a budget that never allows an eviction.
func webOf(p *parts.Pooler) *web {
	w := &web{world: lonely(p)}
	app := labels{"app": "pgbouncer"}
	w.pod.Labels = labels{"app": "pgbouncer", "tier": "db"}
	w.around = escort.Selectors{
		Owner: &escort.Selector{Labels: app}, Replicas: 1,
		Services: []escort.Selector{{Name: "pgbouncer", Labels: app}},
		PDBs:     []escort.PDB{{Selector: escort.Selector{Name: "pgbouncer", Labels: app}, NeverReason: "there is one replica"}},
	}
	return w
}

func (w *web) escort(timeout time.Duration) *Escort {
	e := w.world.escort(timeout)
	e.Connect = func(context.Context) (Kubernetes, error) { return w, w.broken }
	return e
}

func (w *web) PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error {
	err := w.world.PatchLabels(ctx, ref, labels)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if _, labelled := w.pod.Labels["app"]; labelled {
		w.without = time.Time{}
	} else if w.without.IsZero() {
		w.without = time.Now()
	}
	return err
}

// Peers are those of the owner, which lets go of a pod without the label and makes another.
func (w *web) Peers(_ context.Context, p escort.Pod) ([]escort.Peer, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	switch {
	case w.broken != nil:
		return nil, w.broken
	case p.Owner.UID != somePod().Owner.UID:
		return nil, nil
	case w.without.IsZero():
		return []escort.Peer{{Ref: w.pod.Ref, Ready: true, NodeLeaving: true}}, nil
	default:
		return []escort.Peer{{Ref: drain.Ref{UID: "uid-b"}, Ready: time.Since(w.without) >= w.takes}}, nil
	}
}

func (w *web) Serving(context.Context, drain.Ref) (bool, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.stuck || w.without.IsZero() && w.pod.Deleted.IsZero(), w.broken
}

// service sends connections to one pooler while that is served, and to another afterwards.
type service struct {
	*parts.Pooler // as far as clients are concerned
	refused       atomic.Int32
}

// proxyLag is by how much a node's proxy is behind the endpoints.
const proxyLag = 500 * time.Millisecond

func (w *web) service(t *testing.T, leaving, staying *parts.Pooler) *service {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	s := &service{Pooler: &parts.Pooler{Addr: listener.Addr().String()}}
	backend := func() *parts.Pooler {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		if w.without.IsZero() || time.Since(w.without) < proxyLag {
			return leaving
		}
		return staying
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go s.relay(client, backend())
		}
	}()
	return s
}

func (s *service) relay(client net.Conn, p *parts.Pooler) {
	defer client.Close()
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

func TestASingleReplicaIsReplacedWithoutATransactionCutOrAConnectionRefused(t *testing.T) {
	t.Parallel()
	pair(t, parts.Options{}, func(t *testing.T, leaving, staying *parts.Pooler) {
		w := webOf(leaving)
		w.takes = time.Second
		service := w.service(t, leaving, staying)
		busy := work(t, service.Pooler)
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, leaving.Ended())
		before := busy.commits()
		require.Eventually(t, func() bool { return busy.commits() > before+crowd }, patience, glance, "they go on elsewhere")
		busy.requireNothingCut(t)
		require.Zero(t, service.refused.Load())
		require.Equal(t, "surge", escorted.Strategy)
		require.Equal(t, "budget pgbouncer never allows an eviction: there is one replica", escorted.Reason)
		require.GreaterOrEqual(t, escorted.Clients, crowd)
		require.NotZero(t, escorted.HeldBackSeconds)
		require.Empty(t, escorted.AbortedDetail)
		require.Equal(t, labels{"tier": "db", drain.EscortLabel: "surge"}, w.pod.Labels, "the label is off to the end")
	})
}

// waiting is an escort that has got as far as a surge, with a console that is there but not used.
func (w *web) waiting(t *testing.T) *run {
	e := w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	e.version = pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}
	return e
}

func TestWhereASurgeIsNotPossibleNothingIsTouched(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*web)
		why    string
	}{
		"a StatefulSet": {func(w *web) { w.pod.Owner.Kind = "StatefulSet" }, "a StatefulSet makes no replacement"},
		"a hasty liveness probe": {func(w *web) {
			w.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 5432}}, Liveness: escort.LivenessProbe{Port: 5432, Window: 3 * time.Second}}}
		}, "its liveness probe ends a shutdown that takes longer than 1.5s"},
		"a broken API server": {func(w *web) { w.broken = errors.New("it is down") }, "it is down"},
	} {
		w := webOf(nil)
		c.change(w)
		fallback, err := w.waiting(t).surge(t.Context())
		require.NoError(t, err, name)
		require.Contains(t, fallback, "surge is not possible: ", name)
		require.Contains(t, fallback, c.why, name)
		require.Empty(t, w.happened(), name)
	}
}

func TestTheLabelIsPutBackWhenNoReplacementComesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		w.takes = time.Hour
		begun := time.Now()
		fallback, err := w.waiting(t).surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "no replacement was Ready in 1m0s", fallback)
		require.Equal(t, minute, time.Since(begun))
		require.Equal(t, []string{"marked", "unmarked"}, w.happened())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

func TestAPoolerThatMustLeaveWaitsForItsReplacementNoLongerThanHalfOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		w.takes = time.Hour
		e, begun := w.waiting(t), time.Now()
		e.request.EvictBy = begun.Add(20 * time.Second)
		fallback, err := e.surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "no replacement was Ready in 10s", fallback)
		require.Equal(t, 10*time.Second, time.Since(begun))
		require.Equal(t, []string{"marked", "unmarked"}, w.happened())
	})
}

func TestTheLabelIsPutBackWhenAServiceKeepsSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		w.stuck = true
		fallback, err := w.waiting(t).surge(t.Context())
		require.NoError(t, err)
		require.Equal(t, "a Service still sent clients to it after 10s", fallback)
		require.Equal(t, []string{"marked", "unmarked"}, w.happened())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

func TestTheLabelIsPutBackWhenTheDrainEndsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		w.takes = time.Hour
		over := errors.New("the slice is over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, over)
		defer cancel()
		e := w.waiting(t)
		_, err := e.surge(ctx)
		require.ErrorIs(t, e.conclude(ctx, err), over)
		require.Equal(t, []string{"marked", "unmarked"}, w.happened())
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	})
}

// deaf hears an Amend and does not answer.
type deaf struct{ *web }

func (d deaf) PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error {
	err := d.web.PatchLabels(ctx, ref, labels)
	if labels[drain.EscortLabel] != nil {
		return errors.New("no answer")
	}
	return err
}

func TestALabelThatMayBeOffIsPutBack(t *testing.T) {
	w := webOf(nil)
	e := w.waiting(t)
	e.k = deaf{w}
	fallback, err := e.surge(t.Context())
	require.NoError(t, err)
	require.Contains(t, fallback, "no answer")
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
}

func TestTheReplacementIsOneThatServesAndStays(t *testing.T) {
	peer := func(uid string) escort.Peer { return escort.Peer{Ref: drain.Ref{UID: uid}, Ready: true} }
	own, ready, another, coming, going, terminating := peer("own"), peer("1"), peer("2"), peer("3"), peer("4"), peer("5")
	coming.Ready, going.NodeLeaving, terminating.Terminating = false, true, true
	for name, c := range map[string]struct {
		replicas int
		peers    []escort.Peer
		want     bool
	}{
		"none":                                   {1, nil, false},
		"only itself":                            {1, []escort.Peer{own}, false},
		"one that is not Ready yet":              {1, []escort.Peer{own, coming}, false},
		"one that leaves as well":                {1, []escort.Peer{own, going}, false},
		"one that terminates":                    {1, []escort.Peer{own, terminating}, false},
		"one that serves":                        {1, []escort.Peer{own, ready}, true},
		"one of two":                             {2, []escort.Peer{ready, coming}, false},
		"both of two":                            {2, []escort.Peer{ready, another, terminating}, true},
		"one beside one that waits for its turn": {2, []escort.Peer{ready, going}, true},
		"none beside one that waits":             {2, []escort.Peer{going, coming}, false},
		"an owner that wants none any more":      {0, nil, false},
	} {
		require.Equal(t, c.want, replaced(c.peers, "own", c.replicas), name)
	}
}
