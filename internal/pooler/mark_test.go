package pooler

import (
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
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	note := Note{Strategy: config.StrategySurge, Paused: true, Labels: map[string]string{"app": "pgbouncer"}, Settings: map[string]string{"a": "1"}}
	before := time.Now().Add(-time.Second)
	require.NoError(t, e.mark(t.Context(), note))
	require.Equal(t, map[string]string{drain.EscortLabel: "surge"}, w.pod.Labels)

	read, marked := noteOn(w.pod.Pod)
	require.True(t, marked)
	require.Equal(t, w.pod.Owner, read.Owner)
	require.True(t, read.At.After(before))
	read.Owner, read.At = escort.Owner{}, time.Time{}
	require.Equal(t, note, read)

	require.NoError(t, e.unmark(t.Context()))
	require.Equal(t, map[string]string{"app": "pgbouncer"}, w.pod.Labels)
	require.Empty(t, w.pod.Annotations)
	require.Nil(t, e.note)
}

func TestAMarkThatCannotBeReadStandsForAPause(t *testing.T) {
	on := map[string]string{drain.EscortLabel: "evict"}
	garbled := map[string]string{drain.EscortLabel: "{"}
	for name, c := range map[string]struct {
		pod    drain.Pod
		note   Note
		marked bool
	}{
		"no mark":                 {drain.Pod{}, Note{}, false},
		"a label only":            {drain.Pod{Labels: on}, Note{Strategy: config.StrategyEvict, Paused: true}, true},
		"a garbled annotation":    {drain.Pod{Labels: on, Annotations: garbled}, Note{Strategy: config.StrategyEvict, Paused: true}, true},
		"an annotation only":      {drain.Pod{Annotations: map[string]string{drain.EscortLabel: `{"strategy":"evict"}`}}, Note{Strategy: config.StrategyEvict}, true},
		"an annotation by others": {drain.Pod{Annotations: map[string]string{"else": "{}"}}, Note{}, false},
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
	require.NoError(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict, Paused: true}))
	began := time.Now()
	require.ErrorIs(t, e.undo(t.Context()), pgbouncer.ErrUnreachable)
	require.Less(t, time.Since(began), 2*undoBudget)
	_, marked := noteOn(w.pod.Pod)
	require.True(t, marked)
}

func TestAMarkAloneIsTakenOffWithoutAConsole(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	require.NoError(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict}))
	require.NoError(t, e.undo(t.Context()))
	require.Equal(t, []string{"marked", "unmarked"}, w.happened())
}

func TestAPodThatCannotBeMarkedIsNotTouched(t *testing.T) {
	w := lonely(nil)
	e := w.escort(minute).begin(w.asDrained())
	e.k, e.pod = w, *w.pod
	w.broken = errors.New("forbidden")
	require.ErrorContains(t, e.mark(t.Context(), Note{Strategy: config.StrategyEvict}), "mark the pod: forbidden")
}
