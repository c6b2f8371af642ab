package pgbouncer

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

func TestAMarkIsReadAsItWasWritten(t *testing.T) {
	w := lonely(nil)
	w.pod.Labels["app"] = "pgbouncer"
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	note := Note{Strategy: Surge, Paused: true, Labels: map[string]string{"app": "pgbouncer"}, Settings: map[string]string{"a": "1"}}
	before := time.Now().Add(-time.Second)
	require.NoError(t, e.mark(t.Context(), note))
	require.Equal(t, map[string]string{drain.EscortedLabel: "surge"}, w.pod.Labels)

	read, marked := noteOn(*w.pod)
	require.True(t, marked)
	require.Equal(t, w.pod.Owner, read.Owner)
	require.True(t, read.At.After(before))
	read.Owner, read.At = Owner{}, time.Time{}
	require.Equal(t, note, read)

	require.NoError(t, e.unmark(t.Context()))
	require.Equal(t, map[string]string{"app": "pgbouncer"}, w.pod.Labels)
	require.Empty(t, w.pod.Annotations)
	require.Nil(t, e.note)
}

func TestAMarkThatCannotBeReadStandsForAPause(t *testing.T) {
	on := map[string]string{drain.EscortedLabel: "evict"}
	garbled := map[string]string{drain.EscortedLabel: "{"}
	for name, c := range map[string]struct {
		pod    Pod
		note   Note
		marked bool
	}{
		"no mark":                 {Pod{}, Note{}, false},
		"a label only":            {Pod{Labels: on}, Note{Strategy: Evict, Paused: true}, true},
		"a garbled annotation":    {Pod{Labels: on, Annotations: garbled}, Note{Strategy: Evict, Paused: true}, true},
		"an annotation only":      {Pod{Annotations: map[string]string{drain.EscortedLabel: `{"strategy":"evict"}`}}, Note{Strategy: Evict}, true},
		"an annotation by others": {Pod{Annotations: map[string]string{"else": "{}"}}, Note{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			note, marked := noteOn(c.pod)
			require.Equal(t, c.marked, marked)
			require.Equal(t, c.note, note)
		})
	}
}

func TestAMarkStaysOnAPoolerThatCouldNotBePutBack(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	w.dial = blackHole(t)
	require.NoError(t, e.mark(t.Context(), Note{Strategy: Evict, Paused: true}))
	began := time.Now()
	require.ErrorIs(t, e.undo(t.Context()), ErrUnreachable)
	require.Less(t, time.Since(began), 2*undoBudget)
	_, marked := noteOn(*w.pod)
	require.True(t, marked)
}

func TestAMarkAloneIsTakenOffWithoutAConsole(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	require.NoError(t, e.mark(t.Context(), Note{Strategy: Evict}))
	require.NoError(t, e.undo(t.Context()))
	require.Equal(t, []string{"marked", "unmarked"}, w.happened())
}

func TestAPodThatCannotBeMarkedIsNotTouched(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	w.broken = errors.New("forbidden")
	require.ErrorContains(t, e.mark(t.Context(), Note{Strategy: Evict}), "mark the pod: forbidden")
}
