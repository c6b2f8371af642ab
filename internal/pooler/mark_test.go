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

func TestAMarkIsReadAsItWasWritten(t *testing.T) {
	w := lonely(nil)
	w.pod.Labels["app"] = "pgbouncer"
	e := w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	note := Note{Strategy: config.StrategySurge, Paused: true, Labels: map[string]string{"app": "pgbouncer"}, Settings: map[string]string{"a": "1"}}
	before := time.Now().Add(-time.Second)
	require.NoError(t, e.mark(t.Context(), note))
	require.Equal(t, map[string]string{drain.EscortLabel: "surge"}, w.pod.Labels)

	read := w.note()
	require.NotNil(t, read)
	require.Equal(t, w.pod.Owner, read.Owner)
	require.True(t, read.At.After(before))
	read.Owner, read.At = escort.Owner{}, time.Time{}
	require.Equal(t, note, *read)

	require.NoError(t, e.unmark(t.Context()))
	require.Equal(t, map[string]string{"app": "pgbouncer"}, w.pod.Labels)
	require.Nil(t, w.note())
	require.Nil(t, e.note)
}

func TestNote_Unreadable_StandsForAPause(t *testing.T) {
	for name, c := range map[string]struct {
		request drain.EscortRequest
		note    *Note
	}{
		"no record":        {drain.EscortRequest{}, nil},
		"an empty record":  {drain.EscortRequest{Recorded: true}, &Note{Paused: true}},
		"a garbled record": {drain.EscortRequest{Recorded: true, Record: []byte("{")}, &Note{Paused: true}},
		"a record":         {drain.EscortRequest{Recorded: true, Record: []byte(`{"strategy":"evict"}`)}, &Note{Strategy: config.StrategyEvict}},
		"a label of the owner's": {
			drain.EscortRequest{Pod: drain.Pod{Labels: map[string]string{drain.EscortLabel: "evict"}}}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.note, noteOf(c.request)) })
	}
}

// What the pod's owner can write is never replayed.
func TestNote_AnnotationOnThePod_IsIgnored(t *testing.T) {
	w := lonely(nil)
	w.pod.Annotations["quiesce/escorted"] = `{"strategy":"evict","settings":{"auth_type":"trust"}}`
	w.pod.Labels[drain.EscortLabel] = "evict"
	require.Nil(t, w.escort(minute).begin(w.request(t)).note)
}

func TestMark_RecordFails_PodIsNotTouched(t *testing.T) {
	w := lonely(nil)
	r := w.request(t)
	r.Save = func(context.Context, json.RawMessage) error { return errors.New("the Lease is another's") }
	e := w.escort(minute).begin(r)
	e.k, e.pod = w, *w.pod
	require.ErrorContains(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict}), "the Lease is another's")
	require.Empty(t, w.happened())
}

func TestAMarkStaysOnAPoolerThatCouldNotBePutBack(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	w.dial = blackHole(t)
	require.NoError(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict, Paused: true}))
	began := time.Now()
	require.ErrorIs(t, e.undo(t.Context()), pgbouncer.ErrUnreachable)
	require.Less(t, time.Since(began), 2*undoBudget)
	require.NotNil(t, w.note())
}

func TestAMarkAloneIsTakenOffWithoutAConsole(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	require.NoError(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict}))
	require.NoError(t, e.undo(t.Context()))
	require.Equal(t, []string{"marked", "unmarked"}, w.happened())
}

func TestAPodThatCannotBeMarkedIsNotTouched(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	w.broken = errors.New("forbidden")
	require.ErrorContains(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict}), "record the escort: forbidden")
}
