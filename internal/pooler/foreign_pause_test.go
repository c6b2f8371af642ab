package pooler

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	parts "quiesce/test/parts/pgbouncer"
)

// A person, or an operator during maintenance, has paused pgbouncer: it stays paused until it stops.
func TestEvict_PausedBySomebodyElse_StaysPausedUntilItStops(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := newCluster(p)
		w.pod.Containers[0].PreStop, w.hookTime = []string{"sleep", "5"}, 5*time.Second
		within(t, pause(t, p, openConsole(t, p)).Done())
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		require.Equal(t, "evict", result.Strategy)
		within(t, p.Ended())
		require.NotContains(t, p.Log(t), "RESUME")
	})
}

func TestEvict_PausedBySomebodyElseAndRefused_StaysPaused(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, other := newCluster(p), openConsole(t, p)
		within(t, pause(t, p, other).Done())
		blocked := &drain.Blocked{PDBs: []string{"db/pgbouncer"}}
		_, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
			if o.DryRun {
				return nil
			}
			require.False(t, w.saved().Paused, "a later invocation must not resume it either")
			return blocked
		}))
		require.Equal(t, error(blocked), err)
		requirePaused(t, other)
		w.requireNoRecord(t)
		w.requireSettings(t)
	})
}

// From 1.19 on, a foreign pause is known before anything is recorded.
func TestPrepare_PausedBySomebodyElse_RecordsNoPause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		foreign, leftover, recorded bool
	}{
		"nobody":                 {false, false, true},
		"somebody else":          {true, false, false},
		"an escort that crashed": {true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, parts.Newer, parts.Options{})
			w := newCluster(p)
			if c.foreign {
				within(t, pause(t, p, openConsole(t, p)).Done())
			}
			r := w.escort(minute).begin(w.request(t))
			defer r.close()
			r.cluster, r.pod = w, *w.pod
			if c.leftover {
				r.record = &record{Strategy: config.StrategyEvict, Paused: true}
			}
			require.NoError(t, r.openConsole(t.Context()))
			require.NoError(t, byPause{r}.prepare(t.Context()))
			require.Equal(t, c.recorded, w.saved().Paused)
		})
	}
}

// The record of a surge that has paused nothing names no pause to end.
func TestSurge_CrashedThenPausedBySomebodyElse_NotResumed(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := newSurgeCluster(p)
		text, err := json.Marshal(record{Strategy: config.StrategySurge, Owner: w.pod.Owner, Labels: labels{"app": "pgbouncer"}})
		require.NoError(t, err)
		w.pod.Owner, w.pod.Labels = escort.Owner{}, labels{"tier": "db", drain.EscortLabel: "surge"}
		w.record, w.unlabeledAt = text, time.Now()
		within(t, pause(t, p, openConsole(t, p)).Done())
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.Equal(t, "surge", result.Strategy)
		require.NotContains(t, p.Log(t), "RESUME")
	})
}
