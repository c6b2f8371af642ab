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

// adviceTimeout bounds the look at one pooler for a plan, for which a person waits. It is time for a login. A console that takes longer
// deserves a warning itself.
const adviceTimeout = 5 * time.Second

// Advise looks at a pooler and returns warnings: what would go wrong when it is drained, or terminated without quiesce. It changes
// nothing.
func (e *Escort) Advise(ctx context.Context, p drain.Pod) []string {
	ctx, cancel := context.WithTimeout(ctx, adviceTimeout)
	defer cancel()
	cluster, err := e.Connect(ctx)
	if err != nil {
		return []string{inspectFailed(err)}
	}
	pod, err := inspect(ctx, cluster, p.Ref)
	if err != nil {
		return []string{inspectFailed(err)}
	}
	if pod == nil {
		return nil
	}
	selectors, err := cluster.Selectors(ctx, *pod)
	warnings := advise(adviceInput{e.Settings, *pod, selectors, e.probeConsole(ctx, cluster, *pod)})
	if err != nil {
		warnings = append(warnings, escort.Printable("Failed to look up owner, Services and PDBs: "+err.Error()+"."))
	}
	return warnings
}

func inspectFailed(err error) string {
	return escort.Printable("Failed to inspect the pod: " + err.Error() + ".")
}

// probe is the result of one look at the console.
type probe struct {
	version *pgbouncer.Version // nil: the console could not be used
	modes   []string           // pool modes
	failure error              // why the console could not be used
}

func (e *Escort) probeConsole(ctx context.Context, cluster Kubernetes, pod escort.Pod) probe {
	r := &run{Escort: e, Settings: e.Settings, cluster: cluster, pod: pod}
	defer r.close()
	console, err := r.ensureConsole(ctx)
	if err != nil {
		return probe{failure: err}
	}
	pools, err := console.Pools(ctx)
	if err != nil {
		return probe{failure: err}
	}
	version := console.Version()
	return probe{version: &version, modes: pools.Modes()}
}

// adviceInput is everything that advice depends on.
type adviceInput struct {
	Settings
	pod       escort.Pod
	selectors escort.Selectors
	probe
}

// advise returns a warning for each problem, with what to do about it.
func advise(a adviceInput) []string {
	var warnings []string
	for _, rule := range []func(adviceInput) string{
		adviceInput.console, adviceInput.identity, adviceInput.preStop, adviceInput.grace, adviceInput.severalPDBs, adviceInput.neverAllowed,
		adviceInput.singleReplica, adviceInput.liveness, adviceInput.sessions,
	} {
		if warning := rule(a); warning != "" {
			warnings = append(warnings, escort.Printable(warning))
		}
	}
	return warnings
}

// maybeBefore1_23 reports whether SIGTERM may end this pgbouncer at once; maybeFrom1_23, whether it may wait for clients. Both are true
// if the version is not known.
func (a adviceInput) maybeBefore1_23() bool { return a.version == nil || !a.version.WaitsOnShutdown() }
func (a adviceInput) maybeFrom1_23() bool   { return a.version == nil || a.version.WaitsOnShutdown() }

// What SIGTERM does, by version (https://www.pgbouncer.org/usage.html#signals).
const (
	sigtermBefore1_23 = "before 1.23, SIGTERM aborts open transactions at once"
	sigtermFrom1_23   = "from 1.23, SIGTERM waits for clients to disconnect, and the end of the grace period aborts what is still open"
)

// console warns of a console that cannot be used.
func (a adviceInput) console() string {
	if a.version != nil {
		return ""
	}
	cause, fix := "The console does not answer", "Make it reachable for the function."
	preset := presetOf(a.pod.Labels)
	detail := fmt.Sprintf(" (%v)", a.failure)
	switch {
	case errors.Is(a.failure, escort.ErrNoLogin):
		cause, detail = "No console credentials for namespace "+a.pod.Namespace, ""
		fix = "Set escort.pgbouncer.secretRef or secretArn."
	case errors.Is(a.failure, pgbouncer.ErrRefused):
		cause, fix = "The console rejects the login", "Add the user to admin_users and to the userlist."
	case preset != nil && preset.noConsole != "":
		cause, fix = preset.noConsole, "Configure a console over TCP if you can."
	}
	onTERM := "Without a suitable preStop hook that aborts transactions: " + sigtermBefore1_23 + "; " + sigtermFrom1_23 + "."
	if preset != nil && preset.onTERM != "" {
		onTERM = preset.onTERM
	}
	return cause + detail + ": pgbouncer will be evicted without draining. " + onTERM + " " + fix
}

// identity warns of a login whose server is not identified.
func (a adviceInput) identity() string {
	sent := a.version != nil || errors.Is(a.failure, pgbouncer.ErrRefused)
	if !sent || a.TLS == config.TLSVerifyFull {
		return ""
	}
	return fmt.Sprintf("With tls: %s, any pod with the labels of a pooler can relay the login to the real one and act as its administrator. "+
		"Use tls: verify-full.", a.TLS)
}

// grace warns of a grace period that is too short. A shutdown by SIGTERM alone, as in a rollout, has what the hook leaves of it.
func (a adviceInput) grace() string {
	sleep := a.hook().sleeps
	left, want := a.pod.Grace-sleep, sleep+a.Timeout
	switch {
	case left <= 0:
		return fmt.Sprintf("The preStop hook sleeps %v, but the grace period is %v: the kubelet kills pgbouncer while transactions are open. "+
			"Set terminationGracePeriodSeconds to more than %.0f.", sleep, a.pod.Grace, want.Seconds())
	case a.maybeFrom1_23() && left < a.Timeout:
		return fmt.Sprintf("The grace period gives clients %v to disconnect in a rollout or kubectl drain, and then aborts their transactions. "+
			"Set terminationGracePeriodSeconds to more than %.0f, or to how long clients keep a connection.", left, want.Seconds())
	default:
		return ""
	}
}

// severalPDBs warns of more than one PDB for a pod.
func (a adviceInput) severalPDBs() string {
	if len(a.selectors.PDBs) < 2 {
		return ""
	}
	var names []string
	for _, pdb := range a.selectors.PDBs {
		names = append(names, pdb.Name)
	}
	return fmt.Sprintf("PDBs %s all select the pod, and the API server never evicts such a pod. Keep one of them.", strings.Join(names, ", "))
}

// neverAllowed warns of a PDB that can never allow an eviction.
func (a adviceInput) neverAllowed() string {
	i := slices.IndexFunc(a.selectors.PDBs, func(pdb escort.PDB) bool { return pdb.NeverReason != "" })
	if i < 0 {
		return ""
	}
	pdb := a.selectors.PDBs[i]
	return fmt.Sprintf("PDB %s can never allow an eviction (%s): %s. Run another replica, or set maxUnavailable: 1.",
		pdb.Name, pdb.NeverReason, a.insteadOfEviction())
}

// insteadOfEviction returns what happens to a pooler that can never be evicted.
func (a adviceInput) insteadOfEviction() string {
	const blocked = "the pod remains until the drain's deadline and is then deleted"
	_, reason := preflight(a.pod, a.selectors)
	switch {
	case a.Strategy == config.StrategyEvict:
		return blocked + ", because strategy evict does not replace it first"
	case a.version == nil:
		return blocked + ", because it cannot be replaced first without its console"
	case reason != "":
		return blocked + ", because it cannot be replaced first (" + reason + ")"
	default:
		return "the pod is replaced first, which takes until the replacement is Ready"
	}
}

// singleReplica warns of a gap between the only pod and its replacement.
func (a adviceInput) singleReplica() string {
	if a.selectors.Replicas != 1 || a.Strategy == config.StrategySurge || a.neverAllowed() != "" {
		return ""
	}
	return "Only one replica: clients cannot connect until its replacement is Ready. Run two replicas, or set strategy: surge."
}

// liveness warns of a probe that would end a shutdown. The kubelet does not probe a terminating pod, but a surge shuts down a pod that
// is not terminating, and so do people.
func (a adviceInput) liveness() string {
	probe, port := poolerOf(a.pod).Liveness, ConsolePort(a.Port, a.pod)
	if !a.maybeFrom1_23() || a.Strategy == config.StrategyEvict || !needsPort(probe, port) || probe.Window >= a.Timeout {
		return ""
	}
	what := "connects"
	if len(probe.Command) > 0 {
		what = "runs a command that may connect"
	}
	return fmt.Sprintf("The liveness probe %s to port %d, which a graceful shutdown closes: after %v the kubelet restarts the "+
		"container and aborts open transactions. Let it only look for the process (pidof pgbouncer), or fail for longer than %v.",
		what, port, probe.Window, a.Timeout)
}

// sessions warns of session pooling.
func (a adviceInput) sessions() string {
	if !slices.Contains(a.modes, "session") {
		return ""
	}
	return "Session pooling: each client is disconnected, at best between two transactions, and loses its session's state. " +
		"Use transaction pooling, or clients that renew their connections often."
}
