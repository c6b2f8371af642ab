package pooler

import (
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
	parts "quiesce/test/parts/pgbouncer"
)

// world is a cluster in memory, with one pooler's pod. It keeps the effects in order.
type world struct {
	mutex   sync.Mutex
	effects []string

	pod     *escort.Pod     // nil: gone
	record  json.RawMessage // what an escort recorded of it, in the Lease; nil: nothing
	around  escort.Selectors
	peers   []escort.Peer
	serving bool
	broken  error // what the API server answers to every request, if anything

	holder func(name string) bool // tells whether another has the lease
	refuse error                  // what an eviction is answered, if anything
	lost   bool                   // evictions are accepted, but not answered
	hook   time.Duration          // for which the kubelet waits before it sends SIGTERM
	dial   func(context.Context) (net.Conn, error)
	logins []escort.Login

	running *parts.Pooler // nil: none
}

// around a pooler, nothing selects.
func lonely(p *parts.Pooler) *world {
	w := &world{pod: somePod(), running: p, serving: true, logins: []escort.Login{admin}}
	if p != nil {
		w.dial = p.Dial
	}
	return w
}

func somePod() *escort.Pod {
	return &escort.Pod{
		Pod: drain.Pod{
			Ref:    drain.Ref{Namespace: "db", Name: "pgbouncer-a", UID: "uid-a"},
			Labels: map[string]string{}, Annotations: map[string]string{}, Grace: 30 * time.Second,
		},
		Node: "node-a", IP: "10.0.0.1", Ready: true,
		Owner: escort.Owner{Kind: "ReplicaSet", Name: "pgbouncer", UID: "uid-owner"},
	}
}

// escort of pods with this much time.
func (w *world) escort(timeout time.Duration) *Escort {
	return &Escort{
		Settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: timeout, TLS: config.TLSDisable}, Patience: time.Minute},
		Connect:  func(context.Context) (Kubernetes, error) { return w, w.broken },
		Dial:     func(ctx context.Context, _ string) (net.Conn, error) { return w.dial(ctx) },
		Logins:   func(context.Context, string) iter.Seq2[escort.Login, error] { return these(w.logins...) },
	}
}

// aside does something that takes time beside the test, until it is cancelled with a cause. What it returned is received.
func aside(t *testing.T, do func(context.Context) (drain.EscortResult, error)) (cancel context.CancelCauseFunc, returned <-chan error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	answers := make(chan error, 1)
	go func() {
		_, err := do(ctx)
		answers <- err
	}()
	return cancel, answers
}

// asDrained is the pod as a drain knows it.
func (w *world) asDrained() drain.Pod {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.pod == nil {
		return drain.Pod{}
	}
	return drain.Pod{Ref: w.pod.Ref, Labels: maps.Clone(w.pod.Labels), Annotations: maps.Clone(w.pod.Annotations), Deleted: w.pod.Deleted}
}

// request is what a drain asks an escort to do about the pod.
func (w *world) request(t *testing.T) drain.EscortRequest {
	p := w.asDrained()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return drain.EscortRequest{
		Pod: p, Record: w.record, Recorded: w.record != nil, Evict: w.evict(t), Save: w.save,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// evictedBy is the same, with another eviction.
func (w *world) evictedBy(t *testing.T, evict func(context.Context, drain.EvictOptions) error) drain.EscortRequest {
	r := w.request(t)
	r.Evict = evict
	return r
}

// save is the Lease.
func (w *world) save(_ context.Context, record json.RawMessage) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.broken != nil {
		return w.broken
	}
	w.record = record
	return nil
}

func (w *world) did(effect string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.effects = append(w.effects, effect)
}

func (w *world) happened() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.effects)
}

// evict is the API server and the kubelet.
func (w *world) evict(t *testing.T) func(context.Context, drain.EvictOptions) error {
	return func(ctx context.Context, o drain.EvictOptions) error {
		if o.DryRun {
			w.did("dry run")
			return w.refuse
		}
		if w.refuse != nil {
			w.did("eviction refused")
			return w.refuse
		}
		w.terminate(t)
		w.did("evicted")
		if w.lost {
			return errors.New("no answer")
		}
		return nil
	}
}

func (w *world) terminate(t *testing.T) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.pod.Deleted, w.serving = time.Now(), false
	if w.running != nil {
		time.AfterFunc(w.hook, func() { w.running.Signal(t, syscall.SIGTERM) })
	}
}

func (w *world) Inspect(_ context.Context, ref drain.Ref) (*escort.Pod, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	switch {
	case w.broken != nil:
		return nil, w.broken
	case w.pod == nil || w.pod.Ref != ref:
		return nil, nil
	case w.running != nil && !w.pod.Deleted.IsZero() && w.running.State() != nil:
		return nil, nil
	}
	pod := *w.pod
	pod.Labels, pod.Annotations = maps.Clone(w.pod.Labels), maps.Clone(w.pod.Annotations)
	return &pod, nil
}

func (w *world) PatchLabels(_ context.Context, _ drain.Ref, labels map[string]*string) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.broken != nil {
		return w.broken
	}
	amend(w.pod.Labels, labels)
	effect := "marked"
	if labels[drain.EscortLabel] == nil {
		effect = "unmarked"
	}
	w.effects = append(w.effects, effect)
	return nil
}

func amend(present map[string]string, changes map[string]*string) {
	for key, value := range changes {
		if value == nil {
			delete(present, key)
		} else {
			present[key] = *value
		}
	}
}

func (w *world) Forward(ctx context.Context, _, _ string, _ int) (net.Conn, error) {
	w.did("forwarded")
	return w.dial(ctx)
}

func (w *world) Selectors(context.Context, escort.Pod) (escort.Selectors, error) {
	return w.around, w.broken
}

func (w *world) Peers(context.Context, escort.Pod) ([]escort.Peer, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.peers), w.broken
}

func (w *world) Serving(context.Context, drain.Ref) (bool, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.serving, w.broken
}

func (w *world) AcquireGroupLease(_ context.Context, name string) (func() error, bool, error) {
	if w.broken != nil {
		return nil, false, w.broken
	}
	if w.holder != nil && w.holder(name) {
		return nil, false, nil
	}
	w.did("holds " + name)
	return func() error { w.did("lets go"); return nil }, true, nil
}

// note returns what is recorded of the pod; nil: nothing.
func (w *world) note() *Note {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return noteOf(drain.EscortRequest{Record: w.record, Recorded: w.record != nil})
}

// requireAsBefore makes sure that nothing is left of an escort.
func (w *world) requireAsBefore(t *testing.T) {
	t.Helper()
	require.Nil(t, w.note())
	require.NotContains(t, w.pod.Labels, drain.EscortLabel)
	c := open(t, w.running)
	for name, value := range map[string]string{queryWaitTimeout: "120", clientIdleTimeout: "0", serverFastClose: "0"} {
		got, err := c.Setting(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, value, strings.TrimSuffix(got, ".0"), name)
	}
}
