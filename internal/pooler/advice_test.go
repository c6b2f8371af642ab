package pooler

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

var (
	sleeps = []string{"sleep", "5"}
	waits  = []string{"sh", "-c", "sleep 5; kill -INT 1; while kill -0 1; do sleep 1; done"}
)

// advised is what advice is asked on: a pooler of which there is nothing to be said.
type advised struct {
	settings Settings
	pod      escort.Pod
	around   escort.Selectors
	glimpsed glimpsed
}

func (a *advised) container() *escort.Container { return &a.pod.Containers[0] }

func flawless(version pgbouncer.Version, preStop []string) *advised {
	pod, around := webbed()
	pod.Grace = 5 * time.Minute
	pod.Containers = []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Number: 6432}}, PreStop: preStop}}
	return &advised{
		settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: minute}}, pod: pod, around: around,
		glimpsed: glimpsed{version: &version, modes: []string{"transaction"}},
	}
}

func (a *advised) warnings() []string { return advise(a.settings, a.pod, a.around, a.glimpsed) }

var before, since = pgbouncer.Version{Major: 1, Minor: 18, Patch: 0}, pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}

func TestOfAFlawlessPoolerThereIsNothingToSay(t *testing.T) {
	require.Empty(t, flawless(before, waits).warnings())
	require.Empty(t, flawless(since, sleeps).warnings())
	require.Empty(t, flawless(since, waits).warnings())
}

func TestAHookIsJudgedByWhatSIGTERMDoesAfterIt(t *testing.T) {
	const (
		good    = ""
		second  = "the second signal"
		refuses = "refuses new connections"
		hangs   = "clients that hang"
		none    = "no preStop hook that stops it gracefully"
		returns = "does not wait for that"
	)
	shell := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	for _, c := range []struct {
		preStop               []string
		older, newer, unknown string
	}{
		{nil, none, refuses, none},
		{sleeps, none, good, none},
		{shell("sleep 5"), none, good, none},
		{waits, good, good, good},
		{shell("killall -INT pgbouncer && sleep 120"), good, second, second},
		{shell("kill -INT $(pidof pgbouncer); sleep 30"), good, second, second},
		{shell("sleep 5; kill -s INT 1; sleep 30"), good, second, second},
		{shell("pkill pgbouncer; sleep 30"), good, second, second},
		{shell("kill -INT 1"), returns, second, second},
		{shell("kill -HUP 1; sleep 5"), none, good, none},
		{shell(`psql pgbouncer -c PAUSE`), good, hangs, hangs},
		{shell(`psql pgbouncer -c "shutdown wait_for_servers"`), returns, second, second},
		{[]string{"httpGet", "/drain"}, good, good, good},
		{[]string{"/opt/drain"}, good, good, good},
	} {
		for version, want := range map[*pgbouncer.Version]string{&before: c.older, &since: c.newer, nil: c.unknown} {
			a := flawless(before, c.preStop)
			a.glimpsed.version = version
			got := sight{a.settings, a.pod, a.around, a.glimpsed}.preStop()
			require.Equal(t, want == good, got == "", "%v, %v: %s", c.preStop, version, got)
			require.Contains(t, got, want, "%v, %v", c.preStop, version)
		}
	}
}

func TestEachFaultHasItsWarning(t *testing.T) {
	for name, c := range map[string]struct {
		of     *advised
		change func(*advised)
		want   []string // a part of each warning
	}{
		"the default grace": {
			flawless(since, sleeps), func(a *advised) { a.pod.Grace = 30 * time.Second },
			[]string{"leaves clients 25s to go when it is terminated without an escort, and then cuts them: " +
				"set terminationGracePeriodSeconds to more than 65"},
		},
		"the default grace, which SIGTERM does not use": {
			flawless(before, waits), func(a *advised) { a.pod.Grace = 30 * time.Second }, nil,
		},
		"a hook that outlasts the grace": {
			flawless(before, []string{"sh", "-c", "killall -INT pgbouncer && sleep 2m"}),
			func(a *advised) { a.pod.Grace = time.Minute },
			[]string{"its preStop hook sleeps 2m0s, and its grace period is over after 1m0s"},
		},
		"two budgets": {
			flawless(since, sleeps), func(a *advised) {
				a.around.PDBs = append(a.around.PDBs, escort.PDB{Selector: escort.Selector{Name: "all"}})
			},
			[]string{"budgets pgbouncer, all all select it"},
		},
		"a budget that never allows": {
			flawless(since, sleeps), func(a *advised) { a.around.Replicas, a.around.PDBs[0].NeverReason = 1, "one is needed" },
			[]string{"budget pgbouncer can never allow its eviction (one is needed): it is replaced first"},
		},
		"a budget that never allows, and strategy evict": {
			flawless(since, sleeps), func(a *advised) { a.settings.Strategy, a.around.PDBs[0].NeverReason = config.StrategyEvict, "x" },
			[]string{"as strategy evict forbids"},
		},
		"a budget that never allows, of a StatefulSet": {
			flawless(since, sleeps), func(a *advised) { a.pod.Owner.Kind, a.around.PDBs[0].NeverReason = "StatefulSet", "x" },
			[]string{"as it cannot be replaced first: a StatefulSet makes no replacement"},
		},
		"a budget that never allows, and no console": {
			flawless(since, waits),
			func(a *advised) {
				a.glimpsed, a.around.PDBs[0].NeverReason = glimpsed{fault: pgbouncer.ErrUnreachable}, "x"
			},
			[]string{"its console does not answer", "as without its console it cannot be replaced first"},
		},
		"a single replica": {
			flawless(since, sleeps), func(a *advised) { a.around.Replicas = 1 }, []string{"it is the only replica"},
		},
		"a single replica that is to be replaced first": {
			flawless(since, sleeps), func(a *advised) { a.around.Replicas, a.settings.Strategy = 1, config.StrategySurge }, nil,
		},
		"a liveness probe on the listener": {
			flawless(since, sleeps), func(a *advised) { a.container().Liveness = escort.LivenessProbe{Port: 6432, Window: 30 * time.Second} },
			[]string{"connects to port 6432, which a graceful shutdown closes: within 30s"},
		},
		"a liveness probe of one that is paused": {
			flawless(before, waits), func(a *advised) { a.container().Liveness = escort.LivenessProbe{Port: 6432, Window: 30 * time.Second} }, nil,
		},
		"a liveness probe of one that is evicted first": {
			flawless(since, sleeps), func(a *advised) {
				a.settings.Strategy, a.container().Liveness = config.StrategyEvict, escort.LivenessProbe{Port: 6432, Window: 30 * time.Second}
			}, nil,
		},
		"a patient liveness probe": {
			flawless(since, sleeps), func(a *advised) { a.container().Liveness = escort.LivenessProbe{Port: 6432, Window: minute} }, nil,
		},
		"a liveness probe elsewhere": {
			flawless(since, sleeps), func(a *advised) { a.container().Liveness = escort.LivenessProbe{Port: 9127, Window: time.Second} }, nil,
		},
		"sessions": {
			flawless(since, sleeps), func(a *advised) { a.glimpsed.modes = []string{"session", "transaction"} }, []string{"it pools sessions"},
		},
		"no credential": {
			flawless(since, waits), func(a *advised) { a.glimpsed = glimpsed{fault: fmt.Errorf("open the console: %w", escort.ErrNoLogin)} },
			[]string{"there is no credential for its console (open the console: " + escort.ErrNoLogin.Error() + "), so that it is evicted plainly: " +
				olderOnTERM + "; " + newerOnTERM + ": configure one for its namespace"},
		},
		"a refused login": {
			flawless(since, waits), func(a *advised) { a.glimpsed = glimpsed{fault: pgbouncer.ErrRefused} },
			[]string{"its console refuses the login"},
		},
		"CloudNativePG's": {
			flawless(since, nil), func(a *advised) {
				a.glimpsed = glimpsed{fault: pgbouncer.ErrUnreachable}
				a.pod.Labels = labels{"cnpg.io/poolerName": "orders"}
			},
			[]string{"a console on a Unix socket only (" + pgbouncer.ErrUnreachable.Error() + "), so that it is evicted plainly: its manager passes SIGTERM on"},
		},
		"Crunchy's": {
			flawless(since, waits), func(a *advised) {
				a.glimpsed = glimpsed{fault: pgbouncer.ErrUnreachable}
				a.pod.Labels = labels{"postgres-operator.crunchydata.com/role": "pgbouncer"}
			},
			[]string{"configures no admin_users"},
		},
	} {
		c.change(c.of)
		got := c.of.warnings()
		require.Len(t, got, len(c.want), "%s: %q", name, got)
		for i, part := range c.want {
			require.Contains(t, got[i], part, name)
		}
	}
}

func TestAdviceTakesALookAndChangesNothing(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{PoolMode: "session"}, func(t *testing.T, p *parts.Pooler) {
		w := webOf(p)
		p.Connect(t)
		warnings := w.escort(minute).Advise(t.Context(), w.asDrained())
		require.Contains(t, warnings[len(warnings)-1], "it pools sessions")
		require.NotContains(t, fmt.Sprint(warnings), "evicted plainly")
		require.Empty(t, w.happened())
		w.requireAsBefore(t)
	})
}

func TestAPoolerThatCannotBeLookedAtIsSaidToBe(t *testing.T) {
	w := webOf(nil)
	w.broken = errors.New("it is down")
	require.Equal(t, []string{"it could not be looked at: it is down"}, w.escort(minute).Advise(t.Context(), w.asDrained()))
	w.broken, w.pod = nil, nil
	require.Empty(t, w.escort(minute).Advise(t.Context(), drain.Pod{}), "it is gone")
}

// blind sees pods, and nothing around them.
type blind struct{ *web }

func (blind) Selectors(context.Context, escort.Pod) (escort.Selectors, error) {
	return escort.Selectors{}, errors.New("forbidden")
}

func (b blind) escort() *Escort {
	e := b.web.escort(minute)
	e.Connect = func(context.Context) (Kubernetes, error) { return b, nil }
	return e
}

func TestWhatIsNotKnownAroundAPoolerIsSaid(t *testing.T) {
	w := webOf(nil)
	w.logins = nil
	warnings := blind{w}.escort().Advise(t.Context(), w.asDrained())
	require.Contains(t, warnings[0], "there is no credential for its console")
	require.Equal(t, "what selects it is not known: forbidden", warnings[len(warnings)-1])
}

func TestAdviceDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := webOf(nil)
		e := w.escort(minute)
		e.Connect = func(ctx context.Context) (Kubernetes, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		begun := time.Now()
		require.Len(t, e.Advise(t.Context(), w.asDrained()), 1)
		require.Equal(t, adviceBudget, time.Since(begun))
	})
}
