package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

func TestRecord_Saved_ReadBack(t *testing.T) {
	w := newCluster(nil)
	w.pod.Labels["app"] = "pgbouncer"
	r := w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	rec := record{Strategy: config.StrategySurge, Paused: true, Labels: map[string]string{"app": "pgbouncer"}, Settings: map[string]string{"a": "1"}}
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
		t.Run(name, func(t *testing.T) { require.Equal(t, c.record, recordOf(c.request)) })
	}
}

// The pod's owner can write annotations, so they are not believed.
func TestRecord_AnnotationOnThePod_IsIgnored(t *testing.T) {
	w := newCluster(nil)
	w.pod.Annotations["quiesce/result"] = `{"strategy":"evict","settings":{"auth_type":"trust"}}`
	w.pod.Labels[drain.EscortLabel] = "evict"
	require.Nil(t, w.escort(minute).begin(w.request(t)).record)
}

func TestRecord_SaveFails_PodIsUnchanged(t *testing.T) {
	w := newCluster(nil)
	request := w.request(t)
	request.Save = func(context.Context, json.RawMessage) error { return errors.New("the Lease is another's") }
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
