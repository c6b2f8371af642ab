package pooler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// adviceBudget bounds the look at one pooler for a plan, which somebody waits for: time for a login, and no more. A console
// that does not answer by then is worth a warning itself.
const adviceBudget = 5 * time.Second

// Advise looks at a pooler and warns of what would go wrong when it is drained, or terminated by anybody else. It changes nothing.
func (e *Escort) Advise(ctx context.Context, p drain.Pod) []string {
	ctx, cancel := context.WithTimeout(ctx, adviceBudget)
	defer cancel()
	k, err := e.Connect(ctx)
	if err != nil {
		return []string{"it could not be looked at: " + err.Error()}
	}
	pod, err := k.Inspect(ctx, p.Ref)
	if err != nil {
		return []string{"it could not be looked at: " + err.Error()}
	}
	if pod == nil {
		return nil
	}
	around, err := k.Selectors(ctx, *pod)
	warnings := advise(e.Settings, *pod, around, e.glimpse(ctx, k, *pod))
	if err != nil {
		warnings = append(warnings, "what selects it is not known: "+err.Error())
	}
	return warnings
}

// glimpsed is what one look at the console tells.
type glimpsed struct {
	version *pgbouncer.Version // nil: none answered
	modes   []string
	fault   error // why none answered
}

func (e *Escort) glimpse(ctx context.Context, k Kubernetes, pod escort.Pod) glimpsed {
	s := &run{Escort: e, Settings: e.Settings, k: k, pod: pod}
	defer s.close()
	console, err := s.reach(ctx)
	if err != nil {
		return glimpsed{fault: err}
	}
	pools, err := console.Pools(ctx)
	if err != nil {
		return glimpsed{fault: err}
	}
	version := console.Version()
	return glimpsed{version: &version, modes: pools.Modes()}
}

// sight is all that advice is given on.
type sight struct {
	Settings
	pod    escort.Pod
	around escort.Selectors
	glimpsed
}

// advise warns of each fault in one sentence that says what to do.
func advise(s Settings, pod escort.Pod, around escort.Selectors, g glimpsed) []string {
	seen := sight{s, pod, around, g}
	var warnings []string
	for _, rule := range []func(sight) string{
		sight.console, sight.preStop, sight.grace, sight.severalBudgets, sight.neverAllowed, sight.onlyReplica, sight.liveness,
		sight.sessions,
	} {
		if warning := rule(seen); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// older and newer: of which generation it may be, as far as is known.
func (s sight) older() bool { return s.version == nil || !s.version.WaitsOnShutdown() }
func (s sight) newer() bool { return s.version == nil || s.version.WaitsOnShutdown() }

// What SIGTERM does, by version (https://www.pgbouncer.org/usage.html#signals).
const (
	olderOnTERM = "below 1.23, SIGTERM cuts every transaction in flight"
	newerOnTERM = "since 1.23, SIGTERM waits for the clients to leave, and the end of the grace period cuts those that stayed"
)

func (s sight) console() string {
	if s.version != nil {
		return ""
	}
	why, cure := "its console does not answer", "see to it that it can be reached"
	preset := presetOf(s.pod.Labels)
	switch {
	case errors.Is(s.fault, escort.ErrNoLogin):
		why, cure = "there is no credential for its console", "configure one for its namespace"
	case errors.Is(s.fault, pgbouncer.ErrRefused):
		why, cure = "its console refuses the login", "add the user to admin_users and to the userlist"
	case preset != nil && preset.none != "":
		why, cure = preset.none, "give it one, if you can"
	}
	if s.fault != nil {
		why += fmt.Sprintf(" (%v)", s.fault)
	}
	onTERM := olderOnTERM + "; " + newerOnTERM
	if preset != nil && preset.onTERM != "" {
		onTERM = preset.onTERM
	}
	return fmt.Sprintf("%s, so that it is evicted plainly: %s: %s", why, onTERM, cure)
}

// grace: a shutdown by SIGTERM alone, as in a rollout, has what is left of the grace period after the hook.
func (s sight) grace() string {
	sleep := s.hook().sleeps
	left, want := s.pod.Grace-sleep, sleep+s.Timeout
	switch {
	case left <= 0:
		return fmt.Sprintf("its preStop hook sleeps %v, and its grace period is over after %v: the kubelet kills it while transactions "+
			"are in flight: set terminationGracePeriodSeconds to more than %.0f", sleep, s.pod.Grace, want.Seconds())
	case s.newer() && left < s.Timeout:
		return fmt.Sprintf("its grace period leaves clients %v to go when it is terminated without an escort, and then cuts them: "+
			"set terminationGracePeriodSeconds to more than %.0f, or to what its clients keep a connection", left, want.Seconds())
	default:
		return ""
	}
}

func (s sight) severalBudgets() string {
	if len(s.around.PDBs) < 2 {
		return ""
	}
	var names []string
	for _, budget := range s.around.PDBs {
		names = append(names, budget.Name)
	}
	return fmt.Sprintf("budgets %s all select it, and the API server evicts no pod of several: leave it one", strings.Join(names, ", "))
}

func (s sight) neverAllowed() string {
	i := slices.IndexFunc(s.around.PDBs, func(b escort.PDB) bool { return b.NeverReason != "" })
	if i < 0 {
		return ""
	}
	budget := s.around.PDBs[i]
	return fmt.Sprintf("budget %s can never allow its eviction (%s): %s: run another replica, or set maxUnavailable: 1",
		budget.Name, budget.NeverReason, s.instead())
}

// instead is what becomes of a pooler that can never be evicted.
func (s sight) instead() string {
	const blocked = "it stays until the drain's time runs out, and is then deleted"
	_, why := preflight(s.pod, s.around)
	switch {
	case s.Strategy == config.StrategyEvict:
		return blocked + ", as strategy evict forbids to have it replaced first"
	case s.version == nil:
		return blocked + ", as without its console it cannot be replaced first"
	case why != "":
		return blocked + ", as it cannot be replaced first: " + why
	default:
		return "it is replaced first, which takes as long as its replacement takes to be Ready"
	}
}

func (s sight) onlyReplica() string {
	if s.around.Replicas != 1 || s.Strategy == config.StrategySurge || s.neverAllowed() != "" {
		return ""
	}
	return "it is the only replica, and nobody serves from its end until its replacement is Ready: run two, or set the strategy surge"
}

// liveness: the kubelet does not probe a terminating pod, but a surge shuts down a pod that is not, and so do people.
func (s sight) liveness() string {
	probe := poolerOf(s.pod).Liveness
	if !s.newer() || s.Strategy == config.StrategyEvict || probe.Port != consolePort(s.Port, s.pod) || probe.Window >= s.Timeout {
		return ""
	}
	return fmt.Sprintf("its liveness probe connects to port %d, which a graceful shutdown closes: within %v the kubelet restarts the "+
		"container, which cuts what is in flight: have it run a command, or fail for longer than %v", probe.Port, probe.Window, s.Timeout)
}

func (s sight) sessions() string {
	if !slices.Contains(s.modes, "session") {
		return ""
	}
	return "it pools sessions: each client is cut, between two transactions at best, and loses what its session holds: pool " +
		"transactions, or have clients renew their connections often"
}
