package pooler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// fakeCluster is a cluster in memory, with one pooler's pod. It keeps the calls in order.
type fakeCluster struct {
	mutex         sync.Mutex
	calls         []string
	selectorReads int

	pod          *escort.Pod     // nil: gone
	record       json.RawMessage // what an escort recorded of the pod, in the Lease; nil: nothing
	selectors    escort.Selectors
	peers        []escort.Peer
	serving      bool
	failure      error // every request fails with it; nil: none does
	labelFailure error // every change of labels fails with it; nil: none does

	held       func(name string) bool // reports whether another holds the lease
	refuse     error                  // the answer to evictions; nil: they are accepted
	unanswered bool                   // evictions are accepted, but not answered
	hookTime   time.Duration          // for which the kubelet waits before it sends the signal
	signal     syscall.Signal         // of the kubelet, or of the pod's hook
	dial       func(context.Context) (net.Conn, error)
	logins     []escort.Login

	pooler *parts.Pooler // nil: none
}

// newCluster returns a cluster in which nothing selects the pooler.
func newCluster(p *parts.Pooler) *fakeCluster {
	w := &fakeCluster{pod: newPod(), pooler: p, serving: true, signal: syscall.SIGTERM, logins: []escort.Login{admin}}
	if p != nil {
		w.dial = p.Dial
	}
	return w
}

func newPod() *escort.Pod {
	return &escort.Pod{
		Pod: drain.Pod{
			Ref:    drain.Ref{Namespace: "db", Name: "pgbouncer-a", UID: "uid-a"},
			Labels: map[string]string{}, Annotations: map[string]string{}, Grace: 30 * time.Second,
		},
		Node: "node-a", IP: "10.0.0.1", Ready: true,
		Owner:      escort.Owner{Kind: "ReplicaSet", Name: "pgbouncer", UID: "uid-owner"},
		Containers: []escort.Container{{Name: "pgbouncer", Process: "containerd://a"}},
	}
}

// escort returns an escort with this timeout.
func (w *fakeCluster) escort(timeout time.Duration) *Escort {
	return &Escort{
		Settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: timeout, Console: config.Console{TLS: config.TLSDisable}}, PhaseTimeout: time.Minute},
		Connect:  func(context.Context) (Kubernetes, error) { return w, w.failure },
		Dial:     func(ctx context.Context, _ string) (net.Conn, error) { return w.dial(ctx) },
		Logins:   func(context.Context, string) iter.Seq2[escort.Login, error] { return loginsOf(w.logins...) },
	}
}

// inBackground runs do beside the test, until it is canceled with a cause. Its error is received from returned.
func inBackground(t *testing.T, do func(context.Context) (drain.EscortResult, error)) (cancel context.CancelCauseFunc, returned <-chan error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	answers := make(chan error, 1)
	go func() {
		_, err := do(ctx)
		answers <- err
	}()
	return cancel, answers
}

// drainPod returns the pod as a drain knows it.
func (w *fakeCluster) drainPod() drain.Pod {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.pod == nil {
		return drain.Pod{}
	}
	return drain.Pod{Ref: w.pod.Ref, Labels: maps.Clone(w.pod.Labels), Annotations: maps.Clone(w.pod.Annotations), Deleted: w.pod.Deleted}
}

// request returns the drain's request for the pod.
func (w *fakeCluster) request(t *testing.T) drain.EscortRequest {
	p := w.drainPod()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return drain.EscortRequest{
		Pod: p, Record: w.record, Recorded: w.record != nil, Evict: w.evict(t), Save: w.save,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// requestWith returns the drain's request with another eviction.
func (w *fakeCluster) requestWith(t *testing.T, evict func(context.Context, drain.EvictOptions) error) drain.EscortRequest {
	r := w.request(t)
	r.Evict = evict
	return r
}

// save saves the record in the Lease.
func (w *fakeCluster) save(_ context.Context, record json.RawMessage, _ bool) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.failure != nil {
		return w.failure
	}
	w.record = record
	return nil
}

func (w *fakeCluster) addCall(call string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.calls = append(w.calls, call)
}

// count returns how often this was called.
func (w *fakeCluster) count(call string) (n int) {
	for _, made := range w.callList() {
		if made == call {
			n++
		}
	}
	return n
}

func (w *fakeCluster) callList() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.calls)
}

// evict acts as the API server and the kubelet.
func (w *fakeCluster) evict(t *testing.T) func(context.Context, drain.EvictOptions) error {
	return func(ctx context.Context, o drain.EvictOptions) error {
		if o.DryRun {
			w.addCall("dry run")
			return w.refuse
		}
		if w.refuse != nil {
			w.addCall("eviction refused")
			return w.refuse
		}
		w.terminate(t)
		w.addCall("evicted")
		if w.unanswered {
			return errors.New("no answer")
		}
		return nil
	}
}

func (w *fakeCluster) terminate(t *testing.T) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.pod.Deleted, w.serving = time.Now(), false
	if w.pooler != nil {
		time.AfterFunc(w.hookTime, func() { w.pooler.Signal(t, w.signal) })
	}
}

func (w *fakeCluster) Inspect(_ context.Context, ref drain.Ref) (*escort.Pod, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	switch {
	case w.failure != nil:
		return nil, w.failure
	case w.pod == nil || w.pod.Ref != ref:
		return nil, nil
	case w.pooler != nil && !w.pod.Deleted.IsZero() && w.pooler.State() != nil:
		return nil, nil
	}
	pod := *w.pod
	if pod.Containers = slices.Clone(pod.Containers); w.pooler != nil && w.pooler.State() != nil {
		for i := range pod.Containers {
			pod.Containers[i].Process = "" // as the kubelet says it
		}
	}
	pod.Labels, pod.Annotations = maps.Clone(w.pod.Labels), maps.Clone(w.pod.Annotations)
	return &pod, nil
}

func (w *fakeCluster) PatchLabels(_ context.Context, _ drain.Ref, labels map[string]*string) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if err := cmp.Or(w.failure, w.labelFailure); err != nil {
		return err
	}
	patch(w.pod.Labels, labels)
	call := "labeled"
	if labels[drain.EscortLabel] == nil {
		call = "unlabeled"
	}
	w.calls = append(w.calls, call)
	return nil
}

func patch(present map[string]string, changes map[string]*string) {
	for key, value := range changes {
		if value == nil {
			delete(present, key)
		} else {
			present[key] = *value
		}
	}
}

func (w *fakeCluster) Forward(ctx context.Context, _, _ string, _ int) (net.Conn, error) {
	w.addCall("forwarded")
	return w.dial(ctx)
}

func (w *fakeCluster) Selectors(context.Context, escort.Pod) (escort.Selectors, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.selectorReads++
	return w.selectors, w.failure
}

func (w *fakeCluster) Peers(context.Context, escort.Pod) ([]escort.Peer, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.peers), w.failure
}

func (w *fakeCluster) Serving(context.Context, drain.Ref) (bool, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.serving, w.failure
}

func (w *fakeCluster) AcquireGroupLease(_ context.Context, name string) (func() error, bool, error) {
	if w.failure != nil {
		return nil, false, w.failure
	}
	if w.held != nil && w.held(name) {
		return nil, false, nil
	}
	w.addCall("acquired " + name)
	return func() error { w.addCall("released"); return nil }, true, nil
}

// acquired is the call that takes the Lease of an owner's pods.
func acquired(owner string) string { return "acquired " + escort.GroupLease("pooler", "db", owner) }

// saved returns what is recorded of the pod; nil: nothing.
func (w *fakeCluster) saved() *record {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	rec, _ := recordOf(drain.EscortRequest{Record: w.record, Recorded: w.record != nil})
	return rec
}

// requireRestored requires that nothing that an escort changed remains.
func (w *fakeCluster) requireRestored(t *testing.T) {
	t.Helper()
	w.requireNoRecord(t)
	require.NoError(t, workOnce(w.pooler), "it is paused")
	w.requireSettings(t)
}

// requireNoRecord requires that nothing is left to be rolled back.
func (w *fakeCluster) requireNoRecord(t *testing.T) {
	t.Helper()
	require.Nil(t, w.saved())
	require.NotContains(t, w.pod.Labels, drain.EscortLabel)
}

// requireSettings requires pgbouncer's own settings.
func (w *fakeCluster) requireSettings(t *testing.T) {
	t.Helper()
	c := openConsole(t, w.pooler)
	for name, value := range map[string]string{pgbouncer.QueryWaitTimeout: "120", pgbouncer.ClientIdleTimeout: "0", pgbouncer.ServerFastClose: "0"} {
		got, err := c.Setting(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, value, strings.TrimSuffix(got, ".0"), name)
	}
}
