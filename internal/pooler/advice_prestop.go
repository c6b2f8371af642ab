package pooler

import "cmp"

// Recommended hooks. They suit a pod that quiesce drains, and that a rollout or kubectl drain terminates too: Services and node proxies
// drop the pod during the sleep, SIGINT lets open transactions finish, and SIGTERM does not arrive before. Before 1.23 the sleep is
// longer: it is the time in which quiesce pauses pgbouncer. The program prestop needs no such choice, so it is advised first.
const (
	stopAndWait    = "kill -INT 1; while kill -0 1; do sleep 1; done"
	useProgram     = "Use the preStop hook prestop (infra/prestop/README.md, infra/prestop/pgbouncer.yaml), or "
	useHook        = useProgram + "sh -c '" + hookFrom1_23 + "'."
	useHookBefore  = useProgram + "sh -c '" + hookBefore1_23 + "'."
	hookFrom1_23   = "sleep 5; " + stopAndWait
	hookBefore1_23 = "sleep 15; " + stopAndWait
)

func (a adviceInput) hook() preStop { return readPreStop(poolerOf(a.pod).PreStop) }

// preStop warns of a hook that does not suit what SIGTERM does after it.
func (a adviceInput) preStop() string {
	if preset := presetOf(a.pod.Labels); preset != nil && preset.onTERM != "" {
		return ""
	}
	hook := a.hook()
	return cmp.Or(a.preStopFrom1_23(hook), a.preStopBefore1_23(hook))
}

func (a adviceInput) preStopFrom1_23(h preStop) string {
	switch {
	case !a.maybeFrom1_23():
		return ""
	case h.stops && !h.waits:
		return "The preStop hook signals pgbouncer and returns. From 1.23, the kubelet's SIGTERM is then the second signal, which aborts " +
			"open transactions. " + useHook
	case h.pauses:
		return "The preStop hook pauses pgbouncer. From 1.23, SIGTERM then waits for paused clients until the grace period ends. " + useHook
	case h.none && a.version != nil:
		return "No preStop hook: pgbouncer refuses new connections before the node proxies stop sending them. " + useHook
	default:
		return ""
	}
}

func (a adviceInput) preStopBefore1_23(h preStop) string {
	switch {
	case !a.maybeBefore1_23():
		return ""
	case h.none, h.sleeps > 0 && !h.stops && !h.pauses:
		return "No preStop hook that waits for open transactions: when a rollout or kubectl drain terminates the pod, " + sigtermBefore1_23 +
			". " + useHookBefore
	case h.stops && !h.waits && h.sleeps == 0:
		return "The preStop hook signals pgbouncer and does not wait until it has stopped: " + sigtermBefore1_23 + ". " + useHookBefore
	default:
		return ""
	}
}
