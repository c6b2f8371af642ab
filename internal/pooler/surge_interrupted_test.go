package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
	parts "quiesce/test/parts/pgbouncer"
)

// crash makes the cluster and the pooler what they are when an escort is killed during the pause of a surge.
func (w *surgeCluster) crash(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(record{
		Strategy: config.StrategySurge, Owner: w.pod.Owner, Labels: labels{"app": "pgbouncer"}, Paused: true,
		Settings: map[string]string{pgbouncer.QueryWaitTimeout: "120", pgbouncer.ClientIdleTimeout: "0"},
	})
	require.NoError(t, err)
	w.pod.Owner = escort.Owner{}
	w.pod.Labels = labels{"tier": "db", drain.EscortLabel: "surge"}
	w.record = text
	w.unlabeledAt = time.Now()
	c := openConsole(t, w.pooler)
	require.NoError(t, c.Set(t.Context(), pgbouncer.QueryWaitTimeout, "30")) // queryWait could end a wait on a busy machine
	within(t, pause(t, w.pooler, c).Done())
}

// transacts begins a transaction, which a paused pooler holds back. The channel is closed when it has committed.
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

func TestSurge_CrashedReplacementReady_Continues(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newSurgeCluster(p), p.Connect(t)
		w.crash(t)
		waits := transacts(t, app)
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, waits)
		within(t, p.Ended())
		require.Equal(t, "surge", result.Strategy)
		require.NotContains(t, w.callList(), "unlabeled")
		require.Contains(t, w.callList(), "evicted")
		if saved := w.saved(); saved != nil { // the pause's record keeps what the first one said
			require.Equal(t, "120", saved.Settings[pgbouncer.QueryWaitTimeout])
			require.Equal(t, labels{"app": "pgbouncer"}, saved.Labels)
		}
	})
}

func TestSurge_CrashedNoReplacement_RollsBack(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newSurgeCluster(p), p.Connect(t)
		w.readyAfter = time.Hour
		w.crash(t)
		waits := transacts(t, app)
		escort := w.escort(minute)
		escort.Strategy, escort.PhaseTimeout = config.StrategyEvict, time.Second
		w.refuse = &drain.Blocked{}
		_, err := escort.Run(t.Context(), w.request(t))
		require.Equal(t, w.refuse, err)
		within(t, waits)
		require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
		w.requireRestored(t)
	})
}

// openTransaction returns a client with an open transaction on the pooler.
func openTransaction(t *testing.T, p *parts.Pooler) *pgconn.PgConn {
	t.Helper()
	app := p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	return app
}

// interrupt ends the drain when the pooler's log has this command, and waits for the escort to end.
func (w *surgeCluster) interrupt(t *testing.T, command string) {
	t.Helper()
	cancel, ended := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(w.pooler.Log(t), command) }, testTimeout, pollInterval)
	over := errors.New("the invocation is over")
	cancel(over)
	require.ErrorIs(t, <-ended, over)
}

func TestSurge_LivenessProbe_LimitsTheShutdown(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newSurgeCluster(p)
	openTransaction(t, p)
	w.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 6432}}, Liveness: escort.LivenessProbe{Port: 6432, Window: 2 * minShutdownTime}}}
	result, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	require.Equal(t, "1 transaction open when its liveness probe was about to end it", result.AbortedDetail)
	require.Less(t, result.HeldBackSeconds, minute.Seconds())
}

func TestSurge_DrainEndsDuringShutdown_RecordStays(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	w.interrupt(t, "SHUTDOWN WAIT_FOR_SERVERS")
	note := w.saved()
	require.NotNil(t, note)
	require.Equal(t, config.StrategySurge, note.Strategy)
	require.NotContains(t, w.pod.Labels, "app")
	require.NotContains(t, w.callList(), "evicted")
	parts.Exec(t, app, "COMMIT")
	within(t, p.Ended())
}

func TestSurge_DrainEndsDuringPause_RollsBack(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newSurgeCluster(p), openTransaction(t, p)
	w.interrupt(t, "PAUSE command issued")
	parts.Exec(t, app, "COMMIT")
	parts.Exec(t, p.Connect(t), "SELECT")
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	w.requireRestored(t)
}

func TestSurge_EvictionRefused_RollsBack(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := newSurgeCluster(p)
	w.refuse = &drain.Blocked{PDBs: []string{"db/another"}}
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.Equal(t, w.refuse, err)
	require.Equal(t, labels{"app": "pgbouncer", "tier": "db"}, w.pod.Labels)
	parts.Exec(t, p.Connect(t), "SELECT")
	w.requireRestored(t)
}

func TestEvictRepeatedly_Throttled_TriesAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		r, asked := w.ready(t), 0
		r.request.Evict = func(context.Context, drain.EvictOptions) error {
			if asked++; asked < 3 {
				return &drain.Throttled{}
			}
			return nil
		}
		began := time.Now()
		require.NoError(t, r.evictRepeatedly(t.Context()))
		require.Equal(t, 2*evictRetryInterval, time.Since(began))
	})
}

func TestEvictRepeatedly_Refused_ReturnsTheAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		r := w.ready(t)
		w.refuse = &drain.Blocked{}
		began := time.Now()
		require.ErrorIs(t, r.handleError(t.Context(), r.evictRepeatedly(t.Context())), w.refuse)
		require.Equal(t, evictRetryTime, time.Since(began))
	})
}

func TestLivenessLimit_OwnPortFrom1_23Only(t *testing.T) {
	for name, c := range map[string]struct {
		version pgbouncer.Version
		probe   escort.LivenessProbe
		limited bool
		why     string
	}{
		"none":              {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{}, false, ""},
		"as charts have it": {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 30 * time.Second}, true, ""},
		"impatient":         {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 3 * time.Second}, true, "its liveness probe ends a shutdown that takes longer than 1.5s"},
		"on another port":   {pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}, escort.LivenessProbe{Port: 9127, Window: 3 * time.Second}, false, ""},
		"a command that connects": {
			pgbouncer.Version{Major: 1, Minor: 24, Patch: 1},
			escort.LivenessProbe{Command: []string{"pg_isready", "-p", "6432"}, Window: 3 * time.Second}, true,
			"its liveness probe ends a shutdown that takes longer than 1.5s",
		},
		"a command that looks for the process": {
			pgbouncer.Version{Major: 1, Minor: 24, Patch: 1},
			escort.LivenessProbe{Command: []string{"pidof", "pgbouncer"}, Window: 3 * time.Second}, false, "",
		},
		"of a paused pooler": {pgbouncer.Version{Major: 1, Minor: 22, Patch: 1}, escort.LivenessProbe{Port: 6432, Window: 3 * time.Second}, false, ""},
	} {
		r := newSurgeCluster(nil).ready(t)
		r.version = c.version
		r.pod.Containers = []escort.Container{{Ports: []escort.Port{{Number: 6432}}, Liveness: c.probe}}
		limit, limited := r.method().livenessLimit()
		require.Equal(t, c.limited, limited, name)
		if limited {
			require.Equal(t, c.probe.Window/livenessShare, limit, name)
		}
		require.Equal(t, c.why, r.livenessTooShort(), name)
	}
}
