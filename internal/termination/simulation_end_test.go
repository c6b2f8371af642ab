package termination

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// die terminates the instance. Each pod that still runs must have been signaled, or be named in a report.
func (s *simulation) die(inst *simInstance) {
	s.enter(inst, "Terminated")
	inst.dead = true
	for _, p := range inst.node.pods {
		if p.mustGo && !p.Terminating() {
			s.counts["pod killed unsignaled"]++
			s.unsignaled = append(s.unsignaled, p)
			p.diedOn = inst
		}
	}
}

func (s *simulation) checkUnsignalled(inst *simInstance, p *simPod) {
	by := inst.node.completedBy
	switch {
	case inst.reclaimed:
		s.checkReclaimed(inst, p)
	case inst.action.result == "": // the hook timed out
	case by.dead: // before it could report
	case by.reports[inst.id].Status == StatusFailed: // the cluster was unreachable until the deadline
		if !s.hasFailures() {
			s.violate("%s: the drain of %s failed, and nothing was wrong", by.name, inst.id)
		}
	case !s.force && by.reportsRemaining(inst.id, p):
	case s.force && s.unreachable(inst, p) && by.reportsRemaining(inst.id, p):
		s.counts["pod remained despite force, in an outage"]++
	default:
		s.violate("%s was killed unsignaled with %s; report of %s: %v", p.Name, inst.id, by.name, by.reports[inst.id])
	}
}

// unreachable reports whether the API server did not answer from when the pod was due (never in the first half), or from the start of the
// invocation that completed the action, if that was later. A request or two may be lost at either end.
func (s *simulation) unreachable(inst *simInstance, p *simPod) bool {
	from := inst.node.completedAt.Add(-min(max(p.Grace, 2*time.Second), inst.node.completedAt.Sub(inst.action.began)/2))
	if by := inst.node.completedBy.began; from.Before(by) {
		from = by
	}
	if r := inst.node.completedBy.reports[inst.id]; r.Trigger != "" && r.Deadline.After(inst.interrupted.Add(spotTime)) { // the deadline was read late: a final pass
		from = r.Deadline.Add(-finalPassTime / 2)
	}
	first, last := from.Sub(s.began)+requestLag, inst.node.completedAt.Sub(s.began)-requestLag
	return slices.ContainsFunc(s.outages, func(o outage) bool { return o.of == api && o.from <= first && last <= o.to })
}

// requestLag is how long a request takes until it is repeated, near the deadline.
const requestLag = 3 * time.Second

// checkReclaimed checks a pod that ran on an instance that EC2 reclaimed. A Spot interruption leaves time to signal it, or to name it, if
// nothing fails and the instance could still be drained.
func (s *simulation) checkReclaimed(inst *simInstance, p *simPod) {
	beyond := slices.ContainsFunc(inst.states, func(at stateChange) bool {
		return at.name != inService && at.name != "Terminated" && !(Instance{State: at.name}).isWaiting()
	})
	if !s.hasFailures() && !beyond && (s.force || !s.reportedRemaining[p.Name]) {
		s.violate("%s was killed unsignaled on %s, which EC2 reclaimed after its warning", p.Name, inst.id)
	}
}

func (i *simInvocation) reportsRemaining(id string, p *simPod) bool {
	return slices.ContainsFunc(i.reports[id].Pods, func(r drain.PodReport) bool { return r.Name == p.Name && staysWithNode(r) })
}

// staysWithNode reports whether a report says that the pod is killed with the node.
func staysWithNode(p drain.PodReport) bool {
	return p.Outcome == drain.Remained || p.Outcome == drain.Skipped
}

// noteRemaining notes the pods that any report names as remaining.
func (s *simulation) noteRemaining(report Report) {
	for _, p := range report.Pods {
		if staysWithNode(p) {
			s.reportedRemaining[p.Name] = true
		}
	}
}

// checkRestored checks that the node of a returned instance is as it was, and its pods. Sweeps had minutes for it.
func (s *simulation) checkRestored(inst *simInstance) {
	if !s.hadQuietMinutes() {
		return
	}
	s.counts["node restored"]++
	if inst.node.closed {
		s.violate("%s returned, and its node is still cordoned", inst.id)
	}
	s.checkNotPaused(inst)
}

// checkNotPaused checks that no pod of an instance that stays is paused.
func (s *simulation) checkNotPaused(inst *simInstance) {
	if inst.dead || inst.failed || !s.hadQuietMinutes() {
		return
	}
	for _, p := range inst.node.pods {
		if (p.paused != nil || p.Labels[drain.EscortLabel] != "") && !p.Terminating() {
			s.violate("%s stays, and its pod %s is still paused or labeled", inst.id, p.Name)
		}
	}
}

// hadQuietMinutes reports whether sweeps had minutes without failures for restoring.
func (s *simulation) hadQuietMinutes() bool {
	since := time.Since(s.began)
	outage := slices.ContainsFunc(s.outages, func(o outage) bool { return since < o.to+sweepTime })
	return !outage && s.throttled+s.answersLost == 0
}

// sweepTime is long enough for three sweeps: one that finds a crashed holder's lease, one that finds a node cordoned too recently, and
// one more.
const sweepTime = 4 * time.Minute

// checkDaemonsShutDown checks that poolers of DaemonSets are shut down before the completion, if the invocation had time for it.
func (s *simulation) checkDaemonsShutDown(inst *simInstance) {
	by := inst.node.completedBy
	if !s.escorts || by == nil || by.dead || inst.reclaimed || by.reports[inst.id].Status == StatusFailed {
		return
	}
	if !inst.node.completedAt.Before(by.began.Add(s.invocationTime - handOffReserve)) {
		return
	}
	for _, p := range inst.node.pods {
		if p.plan.daemon && p.plan.phase == "poolers" && !p.shutDown {
			s.violate("%s completed %s without shutting down %s", by.name, inst.id, p.Name)
		}
	}
}

// isFinished reports whether nothing remains to be done.
func (s *simulation) isFinished() bool {
	for _, inst := range s.instances {
		if !inst.dead {
			return false
		}
	}
	return len(s.messages) == 0
}

// checkEnd checks what must be true at the end.
func (s *simulation) checkEnd() {
	if !s.isFinished() {
		s.violate("it did not end: %d messages remain", len(s.messages))
	}
	for _, p := range s.unsignaled { // the reports exist by now
		s.checkUnsignalled(p.diedOn, p)
	}
	for _, inst := range s.instances {
		s.checkDaemonsShutDown(inst)
	}
	for body, sent := range s.malformed {
		if sent && !s.deadLettered[body] {
			s.violate("%q is not in the dead-letter queue", body)
		}
	}
}

// hasFailures reports whether the seed makes anything fail.
func (s *simulation) hasFailures() bool {
	return len(s.outages)+s.throttled+s.answersLost > 0 || slices.Max(append(s.crashes, 0)) > 0
}
