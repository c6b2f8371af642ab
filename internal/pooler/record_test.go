package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
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

func TestRecord_Saved_ReadBack(t *testing.T) {
	w := newCluster(nil)
	w.pod.Labels["app"] = "pgbouncer"
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	rec := record{Strategy: config.StrategySurge, Paused: true, Labels: map[string]string{"app": "pgbouncer"}, Settings: map[string]string{pgbouncer.QueryWaitTimeout: "1"}}
	before := time.Now().Add(-time.Second)
	require.NoError(t, r.saveRecord(t.Context(), rec))
	require.Equal(t, map[string]string{drain.EscortLabel: "surge"}, w.pod.Labels)

	read := w.saved()
	require.NotNil(t, read)
	require.Equal(t, w.pod.Owner, read.Owner)
	require.True(t, read.At.After(before))
	read.Owner, read.At = escort.Owner{}, time.Time{}
	require.Equal(t, rec, *read)

	require.NoError(t, r.clearRecord(t.Context()))
	require.Equal(t, map[string]string{"app": "pgbouncer"}, w.pod.Labels)
	require.Nil(t, w.saved())
	require.Nil(t, r.record)
}

func TestRecord_Unreadable_StandsForAPause(t *testing.T) {
	for name, c := range map[string]struct {
		request drain.EscortRequest
		record  *record
	}{
		"no record":        {drain.EscortRequest{}, nil},
		"an empty record":  {drain.EscortRequest{Recorded: true}, &record{Paused: true}},
		"a garbled record": {drain.EscortRequest{Recorded: true, Record: []byte("{")}, &record{Paused: true}},
		"a record":         {drain.EscortRequest{Recorded: true, Record: []byte(`{"strategy":"evict"}`)}, &record{Strategy: config.StrategyEvict}},
		"a label of the owner's": {
			drain.EscortRequest{Pod: drain.Pod{Labels: map[string]string{drain.EscortLabel: "evict"}}}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			rec, _ := recordOf(c.request)
			require.Equal(t, c.record, rec)
		})
	}
}

func TestSaveRecord_LabelDenied_EscortGoesOn(t *testing.T) {
	w := newCluster(nil)
	w.labelFailure = errors.New("denied by a webhook")
	r := begun(t, w, record{Strategy: config.StrategyEvict, Paused: true})
	require.Equal(t, "label the pod: denied by a webhook", r.result.Reason)
	require.True(t, w.saved().Paused)
	r.record.Paused = false
	require.NoError(t, r.rollBack(t.Context()))
	require.Nil(t, w.saved(), "no label was set, so none remains")
}

// A surge removes a label of the pod. What it did must be undone.
func TestSaveRecord_SurgeDenied_Fails(t *testing.T) {
	w := newCluster(nil)
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	w.labelFailure = errors.New("denied by a webhook")
	rec := record{Strategy: config.StrategySurge, Labels: map[string]string{"app": "pgbouncer"}}
	require.ErrorContains(t, r.saveRecord(t.Context(), rec), "label the pod: denied by a webhook")
	require.ErrorContains(t, r.rollBack(t.Context()), "denied by a webhook")
	require.NotNil(t, w.saved())
}

func TestClearRecord_LabelStays_RecordStays(t *testing.T) {
	w := newCluster(nil)
	r := begun(t, w, record{Strategy: config.StrategyEvict})
	w.labelFailure = errors.New("denied by a webhook")
	require.ErrorContains(t, r.rollBack(t.Context()), "denied by a webhook")
	require.NotNil(t, w.saved(), "the next invocation removes the label")
}

// The API server refuses any other label: infra/rbac.yaml names the states.
func TestRecord_EachStrategy_IsAStateOfThePolicy(t *testing.T) {
	policies, err := os.ReadFile(filepath.Join("..", "..", "infra", "rbac.yaml"))
	require.NoError(t, err)
	var states []string
	for _, strategy := range strategies {
		states = append(states, "'"+string(strategy)+"'")
	}
	require.Contains(t, string(policies), "variables.now[?'"+drain.EscortLabel+"'].orValue('evict') in ["+strings.Join(states, ", ")+"]\n")
}

// Only quiesce writes Leases. Even so, a record decides what is written to pods and consoles.
func TestRecord_PartsThatNoEscortWrites_AreIgnored(t *testing.T) {
	for text, want := range map[string]struct {
		record  record
		ignored []string
	}{
		`{"strategy":"evict","settings":{"auth_type":"trust","query_wait_timeout":"120"}}`: {
			record{Strategy: config.StrategyEvict, Settings: map[string]string{pgbouncer.QueryWaitTimeout: "120"}}, []string{"settings"},
		},
		`{"strategy":"evict","settings":{"query_wait_timeout":"120'; SHUTDOWN; --"}}`: {
			record{Strategy: config.StrategyEvict, Settings: map[string]string{}}, []string{"settings"},
		},
		`{"strategy":"evict","paused":true,"settings":{"server_fast_close":"7","a":"b"}}`: {
			record{Strategy: config.StrategyEvict, Paused: true, Settings: map[string]string{}}, []string{"settings"},
		},
		`{"strategy":"surge","labels":{"app":"pgbouncer"}}`: {
			record{Strategy: config.StrategySurge, Labels: map[string]string{"app": "pgbouncer"}}, nil,
		},
		`{"strategy":"surge","labels":{"app":"a","team":"b"}}`:           {record{Strategy: config.StrategyEvict}, []string{"labels", "strategy"}},
		`{"strategy":"surge","labels":{"quiesce/escort-state":"evict"}}`: {record{Strategy: config.StrategyEvict}, []string{"labels", "strategy"}},
		`{"strategy":"evict","labels":{"app":"not a value"}}`:            {record{Strategy: config.StrategyEvict}, []string{"labels"}},
		`{"strategy":"evict","labels":{"a/b/c":"x"}}`:                    {record{Strategy: config.StrategyEvict}, []string{"labels"}},
		`{"strategy":"surge"}`:                                           {record{Strategy: config.StrategyEvict}, []string{"strategy"}},
		`{"strategy":"shutdown","paused":true}`:                          {record{Strategy: shutdown, Paused: true}, nil},
		`{"strategy":"rm -rf"}`:                                          {record{Strategy: config.StrategyEvict}, []string{"strategy"}},
		`{"strategy":"evict","owner":{"Kind":"ReplicaSet","Name":"a","UID":"b"}}`: {
			record{Strategy: config.StrategyEvict, Owner: escort.Owner{Kind: "ReplicaSet", Name: "a", UID: "b"}}, nil,
		},
		`{"strategy":"evict","owner":{"Kind":"ReplicaSet","Name":"../../pods/bait","UID":"b"}}`: {
			record{Strategy: config.StrategyEvict}, []string{"owner"},
		},
		`{"strategy":"evict","paused":true,"settings":{"x":"` + strings.Repeat("y", maxRecord) + `"}}`: {record{Paused: true}, []string{"all"}},
	} {
		rec, ignored := recordOf(drain.EscortRequest{Recorded: true, Record: []byte(text)})
		require.Equal(t, want.record, *rec, text)
		require.Equal(t, want.ignored, ignored, text)
	}
}

// The attack that turned authentication off: a wrong password opened the console afterwards.
func TestUndo_RecordHasForeignSetting_AuthenticationStays(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := newCluster(p)
		w.record = []byte(`{"strategy":"evict","settings":{"auth_type":"trust","query_wait_timeout":"77"}}`)
		require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
		c := openConsole(t, p)
		authType, err := c.Setting(t.Context(), "auth_type")
		require.NoError(t, err)
		require.NotEqual(t, "trust", authType)
		restored, err := c.Setting(t.Context(), pgbouncer.QueryWaitTimeout)
		require.NoError(t, err)
		require.Equal(t, "77", strings.TrimSuffix(restored, ".0"), "the rest of the record is rolled back")
	})
}

// The pod's owner can write annotations, so they are not believed.
func TestRecord_AnnotationOnThePod_IsIgnored(t *testing.T) {
	w := newCluster(nil)
	w.pod.Annotations["quiesce/escort."+w.pod.UID] = `{"strategy":"evict","settings":{"auth_type":"trust"}}`
	w.pod.Labels[drain.EscortLabel] = "evict"
	require.Nil(t, w.escort(minute).begin(w.request(t)).record)
}

func TestRecord_SaveFails_PodIsUnchanged(t *testing.T) {
	w := newCluster(nil)
	request := w.request(t)
	request.Save = func(context.Context, json.RawMessage, bool) error { return errors.New("the Lease is another's") }
	r := w.escort(minute).begin(request)
	r.cluster, r.pod = w, *w.pod
	require.ErrorContains(t, r.saveRecord(t.Context(), record{Strategy: config.StrategyEvict}), "the Lease is another's")
	require.Empty(t, w.callList())
}

func TestRollBack_PoolerUnreachable_RecordStays(t *testing.T) {
	w := newCluster(nil)
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	w.dial = blackHole(t)
	require.NoError(t, r.saveRecord(t.Context(), record{Strategy: config.StrategyEvict, Paused: true}))
	began := time.Now()
	require.ErrorIs(t, r.rollBack(t.Context()), pgbouncer.ErrUnreachable)
	require.Less(t, time.Since(began), 2*rollBackTimeout)
	require.NotNil(t, w.saved())
}

func TestRollBack_LabelOnly_NeedsNoConsole(t *testing.T) {
	w := newCluster(nil)
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	require.NoError(t, r.saveRecord(t.Context(), record{Strategy: config.StrategyEvict}))
	require.NoError(t, r.rollBack(t.Context()))
	require.Equal(t, []string{"labeled", "unlabeled"}, w.callList())
}

func TestRecord_ClusterFails_SaysSo(t *testing.T) {
	w := newCluster(nil)
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	w.failure = errors.New("forbidden")
	require.ErrorContains(t, r.saveRecord(t.Context(), record{Strategy: config.StrategyEvict}), "record the escort: forbidden")
}

// begun is a run whose escort changed the pod: without a console, as of a pooler that does not answer any more.
func begun(t *testing.T, w *fakeCluster, rec record) *run {
	t.Helper()
	w.dial = func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	require.NoError(t, r.saveRecord(t.Context(), rec))
	return r
}

// The time of these requests may be the pod's last.
func TestHandleError_EvictsWithoutDrain_RollsBackOnlyIfRefused(t *testing.T) {
	w := newCluster(nil)
	r := begun(t, w, record{Strategy: config.StrategyEvict})
	require.NoError(t, r.handleError(t.Context(), errors.New("console unreachable")))
	require.Equal(t, []string{"labeled", "evicted"}, w.callList())
	require.NotNil(t, w.saved(), "the next invocation finds it if the pod is still there")

	w = newCluster(nil)
	r = begun(t, w, record{Strategy: config.StrategyEvict})
	w.refuse = &drain.Blocked{Reason: "not now"}
	require.ErrorIs(t, r.handleError(t.Context(), errors.New("console unreachable")), w.refuse)
	require.Equal(t, []string{"labeled", "eviction refused", "unlabeled"}, w.callList())
	require.Nil(t, w.saved())
}

// No PDB protects a pod whose labels are removed.
func TestHandleError_LabelsRemoved_RestoredBeforeEviction(t *testing.T) {
	w := newCluster(nil)
	w.pod.Labels["app"] = "pgbouncer"
	r := begun(t, w, record{Strategy: config.StrategySurge, Labels: map[string]string{"app": "pgbouncer"}})
	require.NoError(t, r.handleError(t.Context(), errors.New("console unreachable")))
	require.Equal(t, []string{"labeled", "unlabeled", "evicted"}, w.callList())
}

func TestHandleError_EscortIsLate_LeavesTheRestToThePodsEnd(t *testing.T) {
	w := newCluster(nil)
	r := begun(t, w, record{Strategy: config.StrategyEvict})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(drain.ErrEscortLate)
	require.ErrorIs(t, r.handleError(ctx, context.Cause(ctx)), drain.ErrEscortLate)
	require.Equal(t, []string{"labeled"}, w.callList())
	require.NotNil(t, w.saved())
}

// The invocation that has taken over acts on the pod already.
func TestHandleError_DrainTakenOver_LeavesEverything(t *testing.T) {
	for name, evicted := range map[string]bool{"before the eviction": false, "after it": true} {
		w := newCluster(nil)
		r := begun(t, w, record{Strategy: config.StrategySurge, Labels: map[string]string{"app": "pgbouncer"}})
		r.evicted = evicted
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(drain.ErrTakenOver)
		require.ErrorIs(t, r.handleError(ctx, context.Cause(ctx)), drain.ErrTakenOver, name)
		require.Equal(t, []string{"labeled"}, w.callList(), name)
		require.NotNil(t, w.saved(), name)
	}
}

func TestSaveRecord_LabelLeftByACrash_NotWrittenAgain(t *testing.T) {
	w := newCluster(nil)
	w.pod.Labels[drain.EscortLabel] = "evict"
	begun(t, w, record{Strategy: config.StrategyEvict, Paused: true})
	require.Empty(t, w.callList())
	require.True(t, w.saved().Paused)
}
