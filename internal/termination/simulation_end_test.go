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
	case inst.plan.nodeLost && by.reports[inst.id].Status == StatusNodeNotFound:
	case by.reports[inst.id].Status == StatusFailed: // the cluster was unreachable until the deadline
		if !s.hasFailures() {
			s.violate("%s: the drain of %s failed, and nothing was wrong", by.name, inst.id)
		}
	case p.plan.database != nil && !p.asked && !s.hasFailures(): // its escort tells it in the last moments, whatever becomes of other pods
		s.violate("%s was killed with %s, and never asked to leave", p.Name, inst.id)
	case !s.force && by.reportsRemaining(inst.id, p):
	case p.couldNotStopAtCompletion && by.reportsRemaining(inst.id, p): // it could not be stopped
	case s.force && s.unreachable(inst, p) && by.reportsRemaining(inst.id, p):
		s.counts["pod remained despite force, in an outage"]++
	default:
		s.violate("%s was killed unsignaled with %s; report of %s: %v", p.Name, inst.id, by.name, by.reports[inst.id])
	}
}

// unreachable reports whether the API server did not answer from when the pod was due (never in the first half), or from the start of the
// invocation that completed the action, if that was later. A request or two may be lost at either end.
func (s *simulation) unreachable(inst *simInstance, p *simPod) bool {
	half := min(inst.node.completedAt.Sub(inst.action.began), s.bounds.MaxDuration-s.bounds.CompletionReserve) / 2 // its event may come late
	from := inst.node.completedAt.Add(-min(max(p.Grace, 2*time.Second), half))
	signalBy := from
	if by := inst.node.completedBy.began; from.Before(by) {
		from = by
	}
	if r := inst.node.completedBy.reports[inst.id]; r.Trigger != "" && r.Deadline.After(inst.interrupted.Add(spotTime)) { // the deadline was read late: a final pass
		from = r.Deadline.Add(-finalPassTime / 2)
	}
	began, pass := inst.node.completedBy.began, inst.node.completedBy.reports[inst.id].Deadline.Add(-finalPassTime)
	if from.Before(pass) && began.After(pass.Add(-finalPassTime)) { // the invocation had no more than a final pass
		from = pass
	}
	if p.plan.database != nil { // its escort may take half of what an invocation that begins late has
		from = from.Add(inst.node.completedAt.Sub(from) / 2)
	}
	if s.escorts && p.plan.phase == "poolers" {
		from = from.Add(finalPassTime / 2) // its escort may take half of a final pass
		middle := began.Add(pass.Add(finalPassTime).Sub(began) / 2)
		if began.After(signalBy.Add(-escortTime)) && from.Before(middle) { // or of an invocation that has not the time for both
			from = middle
		}
	}
	first, last := from.Sub(s.began)+requestLag, inst.node.completedAt.Sub(s.began)-requestLag
	return slices.ContainsFunc(s.outages, func(o outage) bool { return o.of == api && o.from <= first && last <= o.to })
}

// requestLag is how long a request takes until it is repeated, near the deadline.
const requestLag = 3 * time.Second

// tooShortForSpot is an invocation that cannot find two nodes, make a final pass and hand off, where each request takes half a second.
const tooShortForSpot = 20 * time.Second

// checkReclaimed checks a pod that ran on an instance that EC2 reclaimed. A Spot interruption leaves time to signal it, or to name it, if
// nothing fails and the instance could still be drained.
func (s *simulation) checkReclaimed(inst *simInstance, p *simPod) {
	beyond := slices.ContainsFunc(inst.states, func(at stateChange) bool {
		return at.name != inService && at.name != "Terminated" && !(Instance{State: at.name}).isWaiting()
	})
	if s.invocationTime < tooShortForSpot && !s.force {
		return // its report comes after a final pass, for which the invocations leave no time
	}
	if !s.hasFailures() && !beyond && !inst.plan.nodeLost && !p.couldNotStop && (s.force || !s.reportedRemaining[p.Name]) {
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

// noteRemaining notes the pods that any report names as remaining, and whether they could not be stopped at the time of the latest
// report that names them. Their eviction must have been requested.
func (s *simulation) noteRemaining(report Report) {
	inst := s.instance(report.InstanceID)
	for _, p := range report.Pods {
		stays := staysWithNode(p)
		if stays {
			s.reportedRemaining[p.Name] = true
		}
		if inst != nil && inst.node.pods[p.Name] != nil {
			pod := inst.node.pods[p.Name]
			if pod.couldNotStop && inst.isAlmostReclaimed(report.StartedAt) {
				continue
			}
			pod.couldNotStop = stays && pod.asked && inst.cannotStop(reconnectLag+completionLag)
		}
	}
}

// isAlmostReclaimed reports whether EC2 reclaims the instance so soon after this time that a drain that begins then cannot signal its pods.
func (inst *simInstance) isAlmostReclaimed(at time.Time) bool {
	return !inst.interrupted.IsZero() && at.After(inst.interrupted.Add(spotTime+spotReserve-finalPassTime))
}

// completionLag is how long a drain that has ended may try to complete an action that is over, before its report.
const completionLag = 20 * time.Second

// cannotStop reports whether a pod of the instance cannot be stopped now, and could not be so long ago.
func (inst *simInstance) cannotStop(lag time.Duration) bool {
	n := inst.node
	return inst.failed || !n.lostAt.IsZero() || !n.reconnectedAt.IsZero() && time.Since(n.reconnectedAt) < lag
}

// checkRestored checks that the node of a returned instance is as it was, and its pods. Sweeps had minutes for it.
func (s *simulation) checkRestored(inst *simInstance) {
	if !s.hadQuietMinutes() {
		return
	}
	s.counts["node restored"]++
	if inst.node.closed || inst.node.claimantClosed {
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

// checkDaemonsShutDown checks that poolers of DaemonSets are shut down before the completion. An invocation that ends when the deadline is
// reached has no time for it.
func (s *simulation) checkDaemonsShutDown(inst *simInstance) {
	by := inst.node.completedBy
	if !s.escorts || by == nil || by.dead || inst.reclaimed || by.reports[inst.id].Status == StatusFailed || inst.plan.nodeLost || by.plain[inst.id] {
		return
	}
	ends, deadline := by.began.Add(s.invocationTime-handOffReserve), by.reports[inst.id].Deadline
	if !inst.node.completedAt.Before(deadline) && ends.Sub(deadline).Abs() < requestLag {
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
