package pooler

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

func TestChoose_ConfigurationAndPDBs_DecideTheStrategy(t *testing.T) {
	can := escort.PDB{Selector: escort.Selector{Name: "can"}}
	cannot := escort.PDB{Selector: escort.Selector{Name: "cannot"}, NeverReason: "minAvailable 1 of 1"}
	for name, c := range map[string]struct {
		configured config.Strategy
		pdbs       []escort.PDB
		strategy   config.Strategy
		why        string
	}{
		"evict by default":               {config.StrategyAuto, nil, config.StrategyEvict, ""},
		"evict if the PDB can allow it":  {config.StrategyAuto, []escort.PDB{can}, config.StrategyEvict, ""},
		"surge if one of them never can": {config.StrategyAuto, []escort.PDB{can, cannot}, config.StrategySurge, "PDB cannot can never allow an eviction: minAvailable 1 of 1"},
		"evict as asked for":             {config.StrategyEvict, []escort.PDB{cannot}, config.StrategyEvict, ""},
		"surge as asked for":             {config.StrategySurge, []escort.PDB{can}, config.StrategySurge, ""},
	} {
		t.Run(name, func(t *testing.T) {
			strategy, why := choose(c.configured, c.pdbs)
			require.Equal(t, c.strategy, strategy)
			require.Equal(t, c.why, why)
		})
	}
}

// blackHole accepts connections, and never answers.
func blackHole(t *testing.T) func(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return func(context.Context) (net.Conn, error) { return ours, nil }
}

func TestRun_ConsoleUnusable_EvictedWithoutDraining(t *testing.T) {
	t.Parallel()
	wrong := escort.Login{User: admin.User, Password: "wrong"}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, w *fakeCluster)
		reason  string
	}{
		"wrong credentials":  {func(_ *testing.T, w *fakeCluster) { w.logins = []escort.Login{wrong} }, pgbouncer.ErrRefused.Error()},
		"no credentials":     {func(_ *testing.T, w *fakeCluster) { w.logins = nil }, escort.ErrNoLogin.Error()},
		"not in admin_users": {func(_ *testing.T, w *fakeCluster) { w.logins = []escort.Login{stats} }, pgbouncer.ErrNotAdmin.Error()},
		"black hole":         {func(t *testing.T, w *fakeCluster) { w.dial = blackHole(t) }, "console did not answer"},
		"stopped":            {func(t *testing.T, w *fakeCluster) { w.pooler.Signal(t, syscall.SIGSTOP) }, "console did not answer"},
		"a PostgreSQL": {func(t *testing.T, w *fakeCluster) {
			w.logins = []escort.Login{{User: "postgres"}}
			w.dial = func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", postgres.Shared(t).Addr)
			}
		}, pgbouncer.ErrNotPgbouncer.Error()},
		"refused": {func(t *testing.T, w *fakeCluster) {
			w.dial = func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		}, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCluster(parts.Start(t, parts.Newer, parts.Options{}))
			c.prepare(t, w)
			var evictedAfter time.Duration
			began := time.Now()
			result, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
				evictedAfter = time.Since(began)
				require.Zero(t, o)
				w.addCall("evicted")
				w.pod = nil
				return nil
			}))
			require.NoError(t, err)
			require.Equal(t, "plain", result.Strategy)
			require.Contains(t, result.Reason, c.reason)
			require.Less(t, evictedAfter, minute/4)
			require.Equal(t, []string{acquired("uid-owner"), "evicted", "released"}, w.callList())
		})
	}
}

func TestRun_ConsoleStopsAnswering_EvictedWithoutDraining(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := newCluster(p)
	began := time.Now()
	result, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
		if o.DryRun {
			p.Signal(t, syscall.SIGSTOP)
			return nil
		}
		w.addCall("evicted")
		w.pod = nil
		return nil
	}))
	require.NoError(t, err)
	require.Equal(t, "plain", result.Strategy)
	require.Contains(t, w.callList(), "evicted")
	require.Less(t, time.Since(began), minute/2)
}

func TestRun_PodGone_DoesNothing(t *testing.T) {
	w := newCluster(nil)
	r := w.request(t)
	w.pod = nil
	result, err := w.escort(minute).Run(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, drain.EscortResult{Kind: Kind}, result)
	require.Empty(t, w.callList())
}

// crash runs an escort that crashes when it is about to evict the pod.
func crash(t *testing.T, w *fakeCluster) {
	t.Helper()
	crashed := make(chan struct{})
	go func() {
		defer close(crashed)
		_, _ = w.escort(minute).Run(context.Background(), w.requestWith(t, func(_ context.Context, o drain.EvictOptions) error {
			if !o.DryRun {
				runtime.Goexit()
			}
			return nil
		}))
	}()
	within(t, crashed)
	require.NotNil(t, w.saved())
}

func TestRun_AfterACrash_ResumesAndStartsAgain(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := newCluster(p)
		crash(t, w)
		result, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.Equal(t, "evict", result.Strategy)
		require.NotContains(t, w.callList(), "unlabeled", "the record stays until the pod is gone")
		if former, changed := w.saved().Settings[pgbouncer.QueryWaitTimeout]; changed {
			require.Equal(t, "120", strings.TrimSuffix(former, ".0"), "as it was before the crash")
		}
	})
}

func TestUndo_PodRemains_RollsBackOnce(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := newCluster(p)
		crash(t, w)
		require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
		require.NoError(t, workOnce(p))
		w.requireRestored(t)
		before := w.callList()
		require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
		require.Equal(t, before, w.callList())
	})
}

func TestUndo_NoRecord_SendsNoRequest(t *testing.T) {
	w := newCluster(nil)
	w.failure = errors.New("no request is allowed")
	require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
}

func TestRun_Terminating_StopsPoolerDuringHook(t *testing.T) {
	t.Parallel()
	for version, seconds := range map[string]int{
		"1.18": 30, // it stops before that
		"1.24": 10, // it stops after that; a busy machine needs seconds for the login
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, version, parts.Options{})
			w, busy := newCluster(p), work(t, p, parts.Start(t, version, parts.Options{}))
			w.hookTime = time.Duration(seconds) * time.Second
			w.pod.Containers = []escort.Container{{Name: "pgbouncer", PreStop: []string{"sleep", strconv.Itoa(seconds)}}}
			w.terminate(t)
			result, err := w.escort(minute).Run(t.Context(), w.request(t))
			require.NoError(t, err)
			within(t, p.Ended())
			busy.requireNothingAborted(t)
			require.Equal(t, "evict", result.Strategy)
			require.Empty(t, w.callList(), "it is not evicted again, and takes no turn")
		})
	}
}

func TestRun_TerminatingNoConsole_GracePeriodDecides(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	app := p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	w := newCluster(p)
	w.terminate(t)
	require.Eventually(t, func() bool {
		_, err := p.Dial(t.Context())
		return err != nil
	}, testTimeout, pollInterval)
	result, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "plain", result.Strategy)
	require.Contains(t, result.Reason, "the grace period decides")
	require.Empty(t, w.callList())
}

func TestRun_InspectFails_EvictedWithoutDraining(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		w.failure = errors.New("forbidden")
		result, err := w.escort(minute).Run(t.Context(), w.requestWith(t, func(context.Context, drain.EvictOptions) error {
			w.addCall("evicted")
			return nil
		}))
		require.NoError(t, err)
		require.Equal(t, "plain", result.Strategy)
		require.Contains(t, result.Reason, "forbidden")
		require.Equal(t, []string{"evicted"}, w.callList())
	})
}

func TestRun_PortForward_ReachesTheConsole(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := newCluster(p)
	e := w.escort(minute)
	e.ConnectVia = config.ViaPortForward
	e.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }
	result, err := e.Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "evict", result.Strategy)
	require.Contains(t, w.callList(), "forwarded")
	within(t, p.Ended())
}

// A pooler that asks for a cleartext password gets it only if its certificate has the configured name.
func TestRun_CleartextPassword_NeedsProvenServerName(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{AuthType: "plain", TLS: "allow"}, func(t *testing.T, p *parts.Pooler) {
		for name, want := range map[string]config.Strategy{parts.ServerName: config.StrategyEvict, "another.test": plain} {
			w := newCluster(p)
			w.refuse = &drain.Blocked{Reason: "not now"} // so that one pooler is enough for both
			escort := w.escort(minute)
			escort.TLS, escort.ServerName, escort.RootCAs = config.TLSVerifyFull, name, p.CertPool(t)
			result, err := escort.Run(t.Context(), w.request(t))
			require.ErrorIs(t, err, w.refuse, name)
			require.Equal(t, string(want), result.Strategy, name)
		}
	})
}
