package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// crash leaves the cluster and the pooler as an escort does that is killed during the pause of a surge.
func (w *web) crash(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(Note{
		Strategy: config.StrategySurge, Owner: w.pod.Owner, Labels: labels{"app": "pgbouncer"}, Paused: true,
		Settings: map[string]string{queryWaitTimeout: "120", clientIdleTimeout: "0"},
	})
	require.NoError(t, err)
	w.pod.Owner = escort.Owner{}
	w.pod.Labels = labels{"tier": "db", drain.EscortLabel: "surge"}
	w.record = text
	w.without = time.Now()
	c := open(t, w.running)
	require.NoError(t, c.Set(t.Context(), queryWaitTimeout, "1"))
	within(t, pause(t, w.running, c).Done())
}

// transacts begins a transaction, which a paused pooler makes wait, and tells when it has committed.
func transacts(t *testing.T, app *pgconn.PgConn) <-chan struct{} {
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		_, err := app.Exec(context.WithoutCancel(t.Context()), "BEGIN; SELECT; COMMIT").ReadAll()
		if err != nil {
			t.Error(err)
		}
	}()
	return committed
}

func TestASurgeThatCrashedIsGoneOnWithIfTheReplacementIsThere(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := webOf(p), p.Connect(t)
		w.crash(t)
		waits := transacts(t, app)
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, waits)
		within(t, p.Ended())
		require.Equal(t, "surge", escorted.Strategy)
		require.NotContains(t, w.happened(), "unmarked")
		require.Contains(t, w.happened(), "evicted")
		if note := w.note(); note != nil { // by the older generation's: what it says of the past has not been forgotten
			require.Equal(t, "120", note.Settings[queryWaitTimeout])
			require.Equal(t, labels{"app": "pgbouncer"}, note.Labels)
		}
	})
}

func TestASurgeThatCrashedIsUndoneIfTheReplacementIsNotThere(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := webOf(p), p.Connect(t)
		w.takes = time.Hour
		w.crash(t)
		waits := transacts(t, app)
		escort := w.escort(minute)
		escort.Strategy, escort.Patience = config.StrategyEvict, time.Second
		w.refuse = &drain.Blocked{}
		_, err := escort.Run(t.Context(), w.request(t))
		require.Equal(t, w.refuse, err)
		within(t, waits)
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
		w.requireAsBefore(t)
	})
}

// straggle is in the middle of a transaction on the pooler.
func straggle(t *testing.T, p *parts.Pooler) *pgconn.PgConn {
	t.Helper()
	app := p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	return app
}

// interrupt ends the drain when the pooler's log has this, and waits for the escort to end.
func (w *web) interrupt(t *testing.T, command string) {
	t.Helper()
	cancel, ended := aside(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(w.running.Log(t), command) }, patience, glance)
	over := errors.New("the slice is over")
	cancel(over)
	require.ErrorIs(t, <-ended, over)
}

func TestAShutdownTakesNoLongerThanALivenessProbeAllows(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := webOf(p)
	straggle(t, p)
	w.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 6432}}, Liveness: escort.LivenessProbe{Port: 6432, Window: 2 * leastShutdown}}}
	escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	require.Equal(t, "1 transaction in flight when its liveness probe was about to end it", escorted.AbortedDetail)
	require.Less(t, escorted.HeldBackSeconds, minute.Seconds())
}

func TestAPoolerThatShutsDownStaysMarkedWhenTheDrainEnds(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := webOf(p), straggle(t, p)
	w.interrupt(t, "SHUTDOWN WAIT_FOR_SERVERS")
	note := w.note()
	require.NotNil(t, note)
	require.Equal(t, config.StrategySurge, note.Strategy)
	require.NotContains(t, w.pod.Labels, "app")
	require.NotContains(t, w.happened(), "evicted")
	parts.Exec(t, app, "COMMIT")
	within(t, p.Ended())
}

func TestAPauseIsUndoneWhenTheDrainEnds(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := webOf(p), straggle(t, p)
	w.interrupt(t, "PAUSE command issued")
	parts.Exec(t, app, "COMMIT")
	parts.Exec(t, p.Connect(t), "SELECT")
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	w.requireAsBefore(t)
}

func TestAPauseIsUndoneWhenTheEvictionIsRefusedAllTheSame(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := webOf(p)
	w.refuse = &drain.Blocked{PDBs: []string{"db/another"}}
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.Equal(t, w.refuse, err)
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	parts.Exec(t, p.Connect(t), "SELECT")
	w.requireAsBefore(t)
}

func TestTheEvictionOfAPoolerThatHasShutDownIsInsistedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		e, asked := w.waiting(t), 0
		e.request.Evict = func(context.Context, drain.EvictOptions) error {
			if asked++; asked < 3 {
				return &drain.Throttled{}
			}
			return nil
		}
		begun := time.Now()
		require.NoError(t, e.insist(t.Context()))
		require.Equal(t, 2*insistInterval, time.Since(begun))
	})
}

func TestAnEvictionThatIsRefusedForGoodIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		e := w.waiting(t)
		w.refuse = &drain.Blocked{}
		begun := time.Now()
		require.ErrorIs(t, e.conclude(t.Context(), e.insist(t.Context())), w.refuse)
		require.Equal(t, insistence, time.Since(begun))
	})
}

func TestOnlyANewerPoolersProbeOnItsOwnPortLimitsAShutdown(t *testing.T) {
	for name, c := range map[string]struct {
		version pgbouncer.Version
		probe   escort.LivenessProbe
		limited bool
		why     string
	}{
		"none":                  {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{}, false, ""},
		"as charts have it":     {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 30 * time.Second}, true, ""},
		"hasty":                 {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 3 * time.Second}, true, "its liveness probe ends a shutdown that takes longer than 1.5s"},
		"on another port":       {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 9127, Window: 3 * time.Second}, false, ""},
		"of one that is paused": {pgbouncer.Version{Major: 1, Minor: 22, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 3 * time.Second}, false, ""},
	} {
		e := webOf(nil).waiting(t)
		e.version = c.version
		e.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 6432}}, Liveness: c.probe}}
		limit, limited := e.probeLimit()
		require.Equal(t, c.limited, limited, name)
		if limited {
			require.Equal(t, c.probe.Window/probeShare, limit, name)
		}
		require.Equal(t, c.why, e.probed(), name)
	}
}
