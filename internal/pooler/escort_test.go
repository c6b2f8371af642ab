package pooler

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

func TestTheStrategyIsTheOneAskedForOrOneThatCanSucceed(t *testing.T) {
	can := escort.PDB{Selector: escort.Selector{Name: "can"}}
	cannot := escort.PDB{Selector: escort.Selector{Name: "cannot"}, NeverReason: "minAvailable 1 of 1"}
	for name, c := range map[string]struct {
		configured config.Strategy
		budgets    []escort.PDB
		strategy   config.Strategy
		why        string
	}{
		"evict by default":                 {config.StrategyAuto, nil, config.StrategyEvict, ""},
		"evict if the budget can allow it": {config.StrategyAuto, []escort.PDB{can}, config.StrategyEvict, ""},
		"surge if one of them never can":   {config.StrategyAuto, []escort.PDB{can, cannot}, config.StrategySurge, "budget cannot never allows an eviction: minAvailable 1 of 1"},
		"evict as asked for":               {config.StrategyEvict, []escort.PDB{cannot}, config.StrategyEvict, ""},
		"surge as asked for":               {config.StrategySurge, []escort.PDB{can}, config.StrategySurge, ""},
	} {
		t.Run(name, func(t *testing.T) {
			strategy, why := choose(c.configured, c.budgets)
			require.Equal(t, c.strategy, strategy)
			require.Equal(t, c.why, why)
		})
	}
}

// blackHole takes connections, and never says a word.
func blackHole(t *testing.T) func(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return func(context.Context) (net.Conn, error) { return ours, nil }
}

func TestAPoolerWithoutAConsoleIsEvictedPlainlyWithinBounds(t *testing.T) {
	t.Parallel()
	wrong := escort.Login{User: admin.User, Password: "wrong"}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, w *world)
		reason  string
	}{
		"wrong credentials": {func(_ *testing.T, w *world) { w.logins = []escort.Login{wrong} }, pgbouncer.ErrRefused.Error()},
		"no credentials":    {func(_ *testing.T, w *world) { w.logins = nil }, escort.ErrNoLogin.Error()},
		"may only look":     {func(_ *testing.T, w *world) { w.logins = []escort.Login{stats} }, pgbouncer.ErrNotAdmin.Error()},
		"black hole":        {func(t *testing.T, w *world) { w.dial = blackHole(t) }, "took too long"},
		"stopped":           {func(t *testing.T, w *world) { w.running.Signal(t, syscall.SIGSTOP) }, "took too long"},
		"a PostgreSQL": {func(t *testing.T, w *world) {
			w.logins = []escort.Login{{User: "postgres"}}
			w.dial = func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", postgres.Shared(t).Addr)
			}
		}, pgbouncer.ErrNotPgbouncer.Error()},
		"refused": {func(t *testing.T, w *world) {
			w.dial = func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		}, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := lonely(parts.Start(t, parts.Newer, parts.Options{}))
			c.prepare(t, w)
			var evictedAfter time.Duration
			began := time.Now()
			escorted, err := w.escort(minute).Run(t.Context(), w.evictedBy(t, func(_ context.Context, o drain.EvictOptions) error {
				evictedAfter = time.Since(began)
				require.Zero(t, o)
				w.did("evicted")
				w.pod = nil
				return nil
			}))
			require.NoError(t, err)
			require.Equal(t, "plain", escorted.Strategy)
			require.Contains(t, escorted.Reason, c.reason)
			require.Less(t, evictedAfter, minute/4)
			require.Equal(t, []string{"holds quiesce-pooler-uid-owner", "evicted", "lets go"}, w.happened())
		})
	}
}

func TestAPoolerThatStopsAnsweringIsEvictedPlainlyWithinBounds(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w := lonely(p)
	began := time.Now()
	escorted, err := w.escort(minute).Run(t.Context(), w.evictedBy(t, func(_ context.Context, o drain.EvictOptions) error {
		if o.DryRun {
			p.Signal(t, syscall.SIGSTOP)
			return nil
		}
		w.did("evicted")
		w.pod = nil
		return nil
	}))
	require.NoError(t, err)
	require.Equal(t, "plain", escorted.Strategy)
	require.Contains(t, w.happened(), "evicted")
	require.Less(t, time.Since(began), minute/2)
}

func TestAPodThatIsGoneIsSeenOut(t *testing.T) {
	w := lonely(nil)
	r := w.request(t)
	w.pod = nil
	escorted, err := w.escort(minute).Run(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, drain.EscortResult{Kind: Kind}, escorted)
	require.Empty(t, w.happened())
}

// crash runs an escort that is gone at the moment it would ask for the eviction.
func crash(t *testing.T, w *world) {
	t.Helper()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = w.escort(minute).Run(context.Background(), w.evictedBy(t, func(_ context.Context, o drain.EvictOptions) error {
			if !o.DryRun {
				runtime.Goexit()
			}
			return nil
		}))
	}()
	within(t, gone)
	require.NotNil(t, w.note())
}

func TestWhatAnEscortThatCrashedLeftIsUndoneAndBegunAnew(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := lonely(p)
		crash(t, w)
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.Equal(t, "evict", escorted.Strategy)
		require.Contains(t, w.happened(), "unmarked")
	})
}

func TestAPodThatStaysIsReleasedOnceAndForAll(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := lonely(p)
		crash(t, w)
		require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
		require.NoError(t, workOnce(p))
		w.requireAsBefore(t)
		before := w.happened()
		require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
		require.Equal(t, before, w.happened())
	})
}

func TestAPodThatNobodyMarkedIsReleasedWithoutARequest(t *testing.T) {
	w := lonely(nil)
	w.broken = errors.New("nobody may ask")
	require.NoError(t, w.escort(minute).Undo(t.Context(), w.request(t)))
}

func TestATerminatingPodWhoseHookRunsIsFollowed(t *testing.T) {
	t.Parallel()
	for version, seconds := range map[string]int{
		"1.18": 30, // it has to be through before that
		"1.24": 3,  // it is stopped after that
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, version, parts.Options{})
			w, busy := lonely(p), work(t, p, parts.Start(t, version, parts.Options{}))
			w.hook = time.Duration(seconds) * time.Second
			w.pod.Containers = []escort.Container{{Name: "pgbouncer", PreStop: []string{"sleep", strconv.Itoa(seconds)}}}
			w.terminate(t)
			escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
			require.NoError(t, err)
			within(t, p.Ended())
			busy.requireNothingCut(t)
			require.Equal(t, "evict", escorted.Strategy)
			require.Empty(t, w.happened(), "it is neither evicted again nor waited for")
		})
	}
}

func TestATerminatingPodWithoutAConsoleIsLeftToItsGrace(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	app := p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	w := lonely(p)
	w.terminate(t)
	require.Eventually(t, func() bool {
		_, err := p.Dial(t.Context())
		return err != nil
	}, patience, glance)
	escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "plain", escorted.Strategy)
	require.Contains(t, escorted.Reason, "its grace period decides")
	require.Empty(t, w.happened())
}

func TestAClusterThatDoesNotLetUsLookGetsAPlainEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.broken = errors.New("forbidden")
		escorted, err := w.escort(minute).Run(t.Context(), w.evictedBy(t, func(context.Context, drain.EvictOptions) error {
			w.did("evicted")
			return nil
		}))
		require.NoError(t, err)
		require.Equal(t, "plain", escorted.Strategy)
		require.Contains(t, escorted.Reason, "forbidden")
		require.Equal(t, []string{"evicted"}, w.happened())
	})
}

func TestAConsoleIsReachedOverTheAPIServerIfAskedFor(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w := lonely(p)
	e := w.escort(minute)
	e.ConnectVia = config.ViaPortForward
	e.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("there is no way") }
	escorted, err := e.Run(t.Context(), w.request(t))
	require.NoError(t, err)
	require.Equal(t, "evict", escorted.Strategy)
	require.Contains(t, w.happened(), "forwarded")
	within(t, p.Ended())
}

// A pooler that wants the password itself gets it if its certificate is what the configuration asks for, and else a plain eviction.
func TestAConsoleThatAsksForThePasswordGetsItOnceItHasProvedItsName(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{AuthType: "plain", TLS: "allow"}, func(t *testing.T, p *parts.Pooler) {
		for name, want := range map[string]config.Strategy{parts.ServerName: config.StrategyEvict, "another.test": plain} {
			w := lonely(p)
			w.refuse = &drain.Blocked{Reason: "not now"} // so that one pooler is enough for both
			escort := w.escort(minute)
			escort.TLS, escort.ServerName, escort.RootCAs = config.TLSVerifyFull, name, p.CertPool(t)
			escorted, err := escort.Run(t.Context(), w.request(t))
			require.ErrorIs(t, err, w.refuse, name)
			require.Equal(t, string(want), escorted.Strategy, name)
		}
	})
}
