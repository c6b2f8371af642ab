package pooler

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
	parts "quiesce/test/parts/pgbouncer"
)

var (
	sleepHook = []string{"sleep", "5"}
	waitHook  = []string{"sh", "-c", hookFrom1_23}
)

var before, since = pgbouncer.Version{Major: 1, Minor: 18, Patch: 0}, pgbouncer.Version{Major: 1, Minor: 24, Patch: 1}

// good returns the input of a pooler without any problem.
func good(version pgbouncer.Version, hook []string) *adviceInput {
	pod, selectors := poolerPod()
	pod.Namespace = "db"
	pod.Grace = 5 * time.Minute
	pod.Containers = []escort.Container{{Name: "pgbouncer", Ports: []escort.Port{{Number: 6432}}, PreStop: hook}}
	return &adviceInput{
		Settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: minute, Console: config.Console{TLS: config.TLSVerifyFull}}}, pod: pod, selectors: selectors,
		probe: probe{version: &version, modes: []string{"transaction"}},
	}
}

// unusable is the probe of a console that cannot be used.
func unusable(failure error) probe { return probe{failure: failure} }

func liveness(port int, window time.Duration) func(*adviceInput) {
	return func(a *adviceInput) { a.pod.Containers[0].Liveness = escort.LivenessProbe{Port: port, Window: window} }
}

func TestAdvise_NoProblem_NoWarning(t *testing.T) {
	require.Empty(t, advise(*good(before, []string{"sh", "-c", hookBefore1_23})))
	require.Empty(t, advise(*good(before, waitHook)))
	require.Empty(t, advise(*good(since, sleepHook)))
	require.Empty(t, advise(*good(since, waitHook)))
}

// Which hook is right depends on what SIGTERM does after it.
func TestAdvise_PreStop_DependsOnTheVersion(t *testing.T) {
	const (
		good    = ""
		second  = "the second signal"
		refuses = "refuses new connections"
		hangs   = "waits for paused clients"
		none    = "No preStop hook that waits for open transactions"
		returns = "does not wait until it has stopped"
	)
	shell := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	for _, c := range []struct {
		preStop               []string
		older, newer, unknown string
	}{
		{nil, none, refuses, none},
		{sleepHook, none, good, none},
		{shell("sleep 5"), none, good, none},
		{waitHook, good, good, good},
		{shell(hookBefore1_23), good, good, good},
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
			a := goodWithVersion(version, c.preStop)
			got := a.preStop()
			require.Equal(t, want == good, got == "", "%v, %v: %s", c.preStop, version, got)
			require.Contains(t, got, want, "%v, %v", c.preStop, version)
		}
	}
}

func goodWithVersion(version *pgbouncer.Version, hook []string) *adviceInput {
	a := good(before, hook)
	a.version = version
	return a
}

func TestAdvise_EachProblem_HasItsWarning(t *testing.T) {
	for name, c := range map[string]struct {
		input  *adviceInput
		change func(*adviceInput)
		want   []string // a part of each warning
	}{
		"the default grace": {
			good(since, sleepHook), func(a *adviceInput) { a.pod.Grace = 30 * time.Second },
			[]string{"gives clients 25s to disconnect in a rollout or kubectl drain, and then aborts their transactions. " +
				"Set terminationGracePeriodSeconds to more than 65"},
		},
		"the default grace, which SIGTERM does not use": {
			good(before, waitHook), func(a *adviceInput) { a.pod.Grace = 30 * time.Second }, nil,
		},
		"a hook that outlasts the grace": {
			good(before, []string{"sh", "-c", "killall -INT pgbouncer && sleep 2m"}),
			func(a *adviceInput) { a.pod.Grace = time.Minute },
			[]string{"The preStop hook sleeps 2m0s, but the grace period is 1m0s"},
		},
		"two PDBs": {
			good(since, sleepHook), func(a *adviceInput) {
				a.selectors.PDBs = append(a.selectors.PDBs, escort.PDB{Selector: escort.Selector{Name: "all"}})
			},
			[]string{"PDBs pgbouncer, all all select the pod"},
		},
		"a PDB that never allows": {
			good(since, sleepHook), func(a *adviceInput) { a.selectors.Replicas, a.selectors.PDBs[0].NeverReason = 1, "one is needed" },
			[]string{"PDB pgbouncer can never allow an eviction (one is needed): the pod is replaced first"},
		},
		"a PDB that never allows, and strategy evict": {
			good(since, sleepHook), func(a *adviceInput) { a.Strategy, a.selectors.PDBs[0].NeverReason = config.StrategyEvict, "x" },
			[]string{"because strategy evict does not replace it first"},
		},
		"a PDB that never allows, of a StatefulSet": {
			good(since, sleepHook), func(a *adviceInput) { a.pod.Owner.Kind, a.selectors.PDBs[0].NeverReason = "StatefulSet", "x" },
			[]string{"because it cannot be replaced first (a StatefulSet makes no replacement"},
		},
		"a PDB that never allows, and no console": {
			good(since, waitHook),
			func(a *adviceInput) {
				a.probe, a.selectors.PDBs[0].NeverReason = unusable(pgbouncer.ErrUnreachable), "x"
			},
			[]string{"The console does not answer", "because it cannot be replaced first without its console"},
		},
		"a single replica": {
			good(since, sleepHook), func(a *adviceInput) { a.selectors.Replicas = 1 }, []string{"Only one replica"},
		},
		"a single replica that is replaced first": {
			good(since, sleepHook), func(a *adviceInput) { a.selectors.Replicas, a.Strategy = 1, config.StrategySurge }, nil,
		},
		"a liveness probe on the listener": {
			good(since, sleepHook), liveness(6432, 30*time.Second),
			[]string{"connects to port 6432, which a graceful shutdown closes: after 30s"},
		},
		"a liveness probe that runs a command": {
			good(since, sleepHook), func(a *adviceInput) {
				a.pod.Containers[0].Liveness = escort.LivenessProbe{Command: []string{"pg_isready"}, Window: 30 * time.Second}
			},
			[]string{"The liveness probe runs a command that may connect to port 6432, which a graceful shutdown closes: after 30s the kubelet restarts " +
				"the container and aborts open transactions. Let it only look for the process (pidof pgbouncer), or fail for longer than 1m0s."},
		},
		"a liveness probe that looks for the process": {
			good(since, sleepHook), func(a *adviceInput) {
				a.pod.Containers[0].Liveness = escort.LivenessProbe{Command: []string{"pidof", "pgbouncer"}, Window: time.Second}
			}, nil,
		},
		"a liveness probe of a paused pooler": {good(before, waitHook), liveness(6432, 30*time.Second), nil},
		"a liveness probe of a pooler that is evicted first": {
			good(since, sleepHook), func(a *adviceInput) {
				liveness(6432, 30*time.Second)(a)
				a.Strategy = config.StrategyEvict
			}, nil,
		},
		"a patient liveness probe":         {good(since, sleepHook), liveness(6432, minute), nil},
		"a liveness probe on another port": {good(since, sleepHook), liveness(9127, time.Second), nil},
		"a login without a verified server": {
			good(since, sleepHook), func(a *adviceInput) { a.TLS = config.TLSRequire },
			[]string{"With tls: require, any pod with the labels of a pooler can relay the login to the real one and act as its administrator. " +
				"Use tls: verify-full."},
		},
		"a rejected login without a verified server": {
			good(since, waitHook), func(a *adviceInput) { a.TLS, a.probe = config.TLSPrefer, unusable(pgbouncer.ErrRefused) },
			[]string{"The console rejects the login", "With tls: prefer, "},
		},
		"no login that could be relayed": {
			good(since, waitHook), func(a *adviceInput) { a.TLS, a.probe = config.TLSPrefer, unusable(escort.ErrNoLogin) },
			[]string{"No console credentials"},
		},
		"session pooling": {good(since, sleepHook), func(a *adviceInput) { a.modes = []string{"session", "transaction"} }, []string{"Session pooling"}},
		"no credentials": {
			good(since, waitHook), func(a *adviceInput) { a.probe = unusable(fmt.Errorf("open the console: %w", escort.ErrNoLogin)) },
			[]string{"No console credentials for namespace db: pgbouncer will be evicted without draining. Without a suitable preStop hook that " +
				"aborts transactions: " + sigtermBefore1_23 + "; " + sigtermFrom1_23 + ". Set escort.pgbouncer.secretRef or secretArn."},
		},
		"a rejected login": {
			good(since, waitHook), func(a *adviceInput) { a.probe = unusable(pgbouncer.ErrRefused) },
			[]string{"The console rejects the login"},
		},
		"CloudNativePG": {
			good(since, nil), func(a *adviceInput) {
				a.probe = unusable(pgbouncer.ErrUnreachable)
				a.pod.Labels = labels{"cnpg.io/poolerName": "orders"}
			},
			[]string{"on a Unix socket only (" + pgbouncer.ErrUnreachable.Error() + "): pgbouncer will be evicted without draining. " +
				"Its manager turns SIGTERM into SIGINT"},
		},
		"Crunchy": {
			good(since, waitHook), func(a *adviceInput) {
				a.probe = unusable(pgbouncer.ErrUnreachable)
				a.pod.Labels = labels{"postgres-operator.crunchydata.com/role": "pgbouncer"}
			},
			[]string{"configures no admin_users"},
		},
	} {
		c.change(c.input)
		got := advise(*c.input)
		require.Len(t, got, len(c.want), "%s: %q", name, got)
		for i, part := range c.want {
			require.Contains(t, got[i], part, name)
		}
	}
}

func TestAdvise_SessionPooling_WarnsAndChangesNothing(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{PoolMode: "session"}, func(t *testing.T, p *parts.Pooler) {
		w := newSurgeCluster(p)
		p.Connect(t)
		warnings := w.escort(minute).Advise(t.Context(), w.drainPod())
		require.Contains(t, warnings[len(warnings)-1], "Session pooling")
		require.NotContains(t, fmt.Sprint(warnings), "evicted without draining")
		require.Empty(t, w.callList())
		w.requireRestored(t)
	})
}

func TestAdvise_PodCannotBeInspected_SaysSo(t *testing.T) {
	w := newSurgeCluster(nil)
	w.failure = errors.New("it is down")
	require.Equal(t, []string{"Failed to inspect the pod: it is down."}, w.escort(minute).Advise(t.Context(), w.drainPod()))
	w.failure, w.pod = nil, nil
	require.Empty(t, w.escort(minute).Advise(t.Context(), drain.Pod{}), "it is gone")
}

// noSelectors is a cluster in which only pods can be read.
type noSelectors struct{ *surgeCluster }

func (noSelectors) Selectors(context.Context, escort.Pod) (escort.Selectors, error) {
	return escort.Selectors{}, errors.New("forbidden")
}

func (n noSelectors) escort() *Escort {
	e := n.surgeCluster.escort(minute)
	e.Connect = func(context.Context) (Kubernetes, error) { return n, nil }
	return e
}

func TestAdvise_SelectorsCannotBeRead_SaysSo(t *testing.T) {
	w := newSurgeCluster(nil)
	w.logins = nil
	warnings := noSelectors{w}.escort().Advise(t.Context(), w.drainPod())
	require.Contains(t, warnings[0], "No console credentials")
	require.Equal(t, "Failed to look up owner, Services and PDBs: forbidden.", warnings[len(warnings)-1])
}

func TestAdvise_NoAnswer_TimesOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newSurgeCluster(nil)
		e := w.escort(minute)
		e.Connect = func(ctx context.Context) (Kubernetes, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		began := time.Now()
		require.Len(t, e.Advise(t.Context(), w.drainPod()), 1)
		require.Equal(t, adviceTimeout, time.Since(began))
	})
}
