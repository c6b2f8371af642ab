package termination

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// step is how far an incarnation is with an instance, in the promised order.
type step int

const (
	stepLease step = iota + 1
	stepCordon
	stepEvict
	stepVolumes
	stepComplete
)

// checked is how the tally calls a look at a promise.
const checked = "promise checked"

// checkOrder notes a stage, and that none before it comes after it. One of those that drain needs the lease.
func (i *simInvocation) checkOrder(c *simInstance, now step) {
	i.s.counts[checked]++
	if before := i.steps[c.id]; before > now {
		i.s.violate("%s: stage %d of %s after stage %d", i.name, now, c.id, before)
	}
	if i.steps[c.id] = now; now > stepLease && now < stepComplete && !i.holds[c.id] {
		i.s.violate("%s: stage %d of %s without its lease", i.name, now, c.id)
	}
}

// checkWrite: nothing is written for an instance that does not terminate.
func (i *simInvocation) checkWrite(c *simInstance, what string) {
	i.s.counts[checked]++
	if now := c.state(); now != "Terminating:Wait" && now != "Terminating:Proceed" && !i.wasWaiting(c) && !i.s.wasTriggered(c) {
		i.s.violate("%s: %s %s, which is %s", i.name, what, c.id, now)
	}
}

// wasTriggered tells whether EC2 has said what a drain may begin for.
func (s *simulation) wasTriggered(c *simInstance) bool {
	return !c.interrupted.IsZero() || s.onRebalance && !c.recommended.IsZero()
}

// wasWaiting: an answer cannot be newer than its question. What changed since the incarnation could last see it is forgiven.
func (i *simInvocation) wasWaiting(c *simInstance) bool {
	since := time.Now().Add(-i.s.lag - i.s.invocationTime)
	for n, next := range c.states[1:] {
		if (Instance{State: c.states[n].name}).isWaiting() && next.since.After(since) {
			return true
		}
	}
	return false
}

func (i *simInvocation) checkAcquire(before *simLease, id string) {
	if !i.verified {
		i.s.violate("%s: owns %s before it verified anything", i.name, id)
	}
	if before != nil && !before.holder.dead && before.holder.holds[id] && !before.renewalFailed {
		i.s.violate("%s: took the lease of %s from %s, which lives", i.name, id, before.holder.name)
	}
	if !i.sweeps {
		c := i.s.instance(id)
		i.steps[id], i.completed[id] = stepLease, false // it begins anew, for another record
		if c.isWaiting() && c.action.heldSince.IsZero() {
			c.action.heldSince = time.Now()
		}
	}
}

// checkDeleteLease: only the Lease of an instance that is gone may be deleted with what it says.
func (i *simInvocation) checkDeleteLease(id string) {
	if c := i.s.instance(id); !c.dead {
		i.s.violate("%s: deleted the lease of %s, which runs", i.name, id)
	}
}

func (i *simInvocation) checkCordon(c *simInstance) {
	i.checkWrite(c, "cordoned")
	i.checkOrder(c, stepCordon)
}

// checkRestore: what an earlier termination took is given back, and never what the present one did, nor what a notice did.
func (i *simInvocation) checkRestore(c *simInstance) {
	i.s.counts[checked]++
	if c.isWaiting() && c.node.closed && !c.node.cordonedAt.Before(c.action.began) {
		i.s.violate("%s: restored %s, which is terminating", i.name, c.id)
	}
	if c.node.closed && c.node.hook == "" && i.s.wasTriggered(c) {
		i.s.violate("%s: restored %s, which is closed for a notice", i.name, c.id)
	}
}

func (i *simInvocation) checkEvict(c *simInstance, p *simPod) {
	i.checkWrite(c, "evicted from")
	if i.steps[c.id] < stepCordon {
		i.s.violate("%s: evicted from %s before it was cordoned", i.name, c.id)
	}
	i.checkOrder(c, stepEvict)
	if p == nil {
		return
	}
	i.checkSignal(c, p)
	switch {
	case !p.mustGo:
		i.s.violate("%s: evicted %s, which is to stay", i.name, p.Name)
	case !i.s.escorts || p.plan.phase != "poolers" || i.escorting[p.Name]:
	case !i.s.force || !i.s.isTime(c, p.Grace+escortTime):
		i.s.violate("%s: evicted %s behind its escort's back", i.name, p.Name)
	}
}

// checkSignal: a pod is asked again only if nobody heard what it was answered, or by two owners at once, one of whom could not renew
// its lease. (The API server signals it once all the same.)
func (i *simInvocation) checkSignal(c *simInstance, p *simPod) {
	unknown := i.s.unheardEffects["evict "+p.Name] || i.s.unheardEffects["delete "+p.Name]
	if p.Terminating() && !unknown && !c.hasTwoOwners() {
		i.s.violate("%s: told %s twice", i.name, p.Name)
	}
}

func (c *simInstance) hasTwoOwners() bool {
	alive := 0
	for _, i := range c.leaseHolders {
		if !i.dead && !i.over {
			alive++
		}
	}
	return alive > 1
}

// checkDelete: by policy, never in the first half, never untried, and not before what all under one budget need.
func (i *simInvocation) checkDelete(c *simInstance, p *simPod, grace time.Duration) {
	i.checkWrite(c, "deleted from")
	i.checkOrder(c, stepEvict)
	if p == nil {
		return
	}
	i.checkSignal(c, p)
	needs := i.s.timeNeeded(p)
	for _, other := range c.node.pods {
		if other != p && other.pdb != nil && other.pdb == p.pdb {
			needs += i.s.timeNeeded(other)
		}
	}
	switch {
	case !i.s.force:
		i.s.violate("%s: deleted %s, against policy", i.name, p.Name)
	case !i.s.isTime(c, needs):
		i.s.violate("%s: deleted %s before its moment", i.name, p.Name)
	case p.evictions == 0 && !i.s.hasFaults():
		i.s.violate("%s: deleted %s untried", i.name, p.Name)
	case grace < time.Second || grace > max(p.Grace, time.Second):
		i.s.violate("%s: deleted %s with %s of %s", i.name, p.Name, grace, p.Grace)
	}
}

// timeNeeded is what a pod takes to leave.
func (s *simulation) timeNeeded(p *simPod) time.Duration {
	needs := max(p.Grace, 2*time.Second)
	if s.escorts && p.plan.phase == "poolers" {
		needs += escortTime
	}
	return needs
}

// timeSpan is the time of a drain.
type timeSpan struct{ began, deadline time.Time }

// timeSpans are those of the instance, one for each thing that says that it goes, and those of drains that a notice has hastened.
func (s *simulation) timeSpans(c *simInstance) (all []timeSpan) {
	whole := s.bounds.MaxDuration - s.bounds.CompletionReserve
	if c.action != nil {
		deadline := s.deadline(c.action)
		all = append(all, timeSpan{deadline.Add(-whole), deadline})
	}
	if !c.recommended.IsZero() && s.onRebalance {
		all = append(all, timeSpan{c.recommended, c.recommended.Add(whole)})
	}
	if c.interrupted.IsZero() {
		return all
	}
	goes := c.interrupted.Add(spotTime)
	for _, other := range slices.Clone(all) {
		all = append(all, timeSpan{other.began, goes})
	}
	return append(all, timeSpan{c.interrupted, goes})
}

// isTime tells whether by any of the clocks it is the moment of who needs so much time, and not in the first half.
func (s *simulation) isTime(c *simInstance, needs time.Duration) bool {
	now := time.Now()
	return slices.ContainsFunc(s.timeSpans(c), func(k timeSpan) bool {
		return !now.Before(k.began.Add(k.deadline.Sub(k.began)/2)) && !now.Before(k.deadline.Add(-needs))
	})
}

// hasTime tells whether no clock has run out.
func (s *simulation) hasTime(c *simInstance) bool {
	return !slices.ContainsFunc(s.timeSpans(c), func(k timeSpan) bool { return !time.Now().Before(k.deadline) })
}

// deadline is the earliest that the action's can be. A forged event of an instance that has just begun to terminate is true but for
// its clock, and believed if it is young.
func (s *simulation) deadline(a *simAction) time.Time {
	began := a.began
	for _, stray := range s.falseEvents {
		if at := s.began.Add(stray.at); stray.kind == "in service" && at.Before(began) && a.began.Sub(at) <= oldEventAge {
			began = at
		}
	}
	return began.Add(min(s.bounds.MaxDuration, s.hook.limit()) - s.bounds.CompletionReserve)
}

// checkComplete: a node is let go when it is empty, or when its time is over.
func (i *simInvocation) checkComplete(c *simInstance, result Result) {
	i.checkOrder(c, stepComplete)
	c.node.completedBy, c.node.completedAt = i, time.Now()
	over := i.s.deadline(c.action)
	if goes := c.interrupted.Add(spotTime); !c.interrupted.IsZero() && goes.Before(over) {
		over = goes
	}
	for _, p := range c.node.pods {
		if time.Now().Before(over) && p.isWaitedFor(c) {
			i.s.violate("%s: completed %s with %s while %s was there and there was time", i.name, c.id, result, p.Name)
		}
	}
}

// What is waited for in vain: for so long nobody waits for an unreachable kubelet, and for who takes a finalizer off.
const (
	lostWait = 15 * time.Second
	keptWait = 10 * time.Second
	// reconnectLag is how long a kubelet that is heard again may still be taken for lost: what comes after its drain.
	reconnectLag = 5 * time.Second
)

// isWaitedFor tells whether the pod is to go and somebody can see to that, if it has not been told yet.
func (p *simPod) isWaitedFor(c *simInstance) bool {
	lost := !c.node.lostAt.IsZero() && time.Since(c.node.lostAt) >= lostWait
	stays := c.broken || lost || time.Since(c.node.reconnectedAt) < reconnectLag || !p.ContainersEndedAt.IsZero() && time.Since(p.ContainersEndedAt) >= keptWait
	return p.mustGo && !(p.Terminating() && stays)
}

// checkCompleteOnce: whoever has heard that an action is completed does not ask again.
func (i *simInvocation) checkCompleteOnce(id string) {
	if i.completed[id] {
		i.s.violate("%s: completed %s twice", i.name, id)
	}
}

// firstHeartbeat is what an owner may take to keep an action alive.
const firstHeartbeat = 5 * time.Second

func (a *simAction) wasHeldFor(d time.Duration) bool {
	return !a.heldSince.IsZero() && time.Since(a.heldSince) > d
}

// checkActionEnd: an action runs out only where the seed forces it to.
func (s *simulation) checkActionEnd(c *simInstance, a *simAction) {
	if a.result == "" {
		if s.counts["hook ran out"]++; !s.mayExpire() || (!s.hasFaults() && a.wasHeldFor(firstHeartbeat)) {
			s.violate("the hook of %s ran out", c.id)
		}
	}
}

// die: what still runs on the node then was told to stop, or is named as left.
func (s *simulation) die(c *simInstance) {
	s.enter(c, "Terminated")
	c.dead = true
	for _, p := range c.node.pods {
		if p.mustGo && !p.Terminating() {
			s.counts["pod left"]++
			s.unsignalled = append(s.unsignalled, p)
			p.diedOn = c
		}
	}
}

func (s *simulation) checkUnsignalled(c *simInstance, p *simPod) {
	by := c.node.completedBy
	switch {
	case c.reclaimed:
		s.checkReclaimed(c, p)
	case c.action.result == "": // ran out
	case by.dead: // before it could say so
	case by.reports[c.id].Status == StatusFailed: // out of reach until the deadline
		if !s.hasFaults() {
			s.violate("%s: the drain of %s failed, and nothing was wrong", by.name, c.id)
		}
	case !s.force && by.reportsRemaining(c.id, p):
	case s.force && s.unreachable(c, p) && by.reportsRemaining(c.id, p):
		s.counts["pod left by force, in an outage"]++
	default:
		s.violate("%s died unsignalled with %s; report of %s: %v", p.Name, c.id, by.name, by.reports[c.id])
	}
}

// unreachable tells whether nobody could have told the pod: from its moment on (which is not in the first half), or from when the
// slice began that let its node go, if that was later, the API server did not answer. A request or two are lost at either end.
func (s *simulation) unreachable(c *simInstance, p *simPod) bool {
	from := c.node.completedAt.Add(-min(max(p.Grace, 2*time.Second), c.node.completedAt.Sub(c.action.began)/2))
	if by := c.node.completedBy.began; from.Before(by) {
		from = by
	}
	if r := c.node.completedBy.reports[c.id]; r.Trigger != "" && r.Deadline.After(c.interrupted.Add(spotTime)) { // heard late: a last look
		from = r.Deadline.Add(-finalPassTime / 2)
	}
	first, last := from.Sub(s.began)+requestLag, c.node.completedAt.Sub(s.began)-requestLag
	return slices.ContainsFunc(s.outages, func(o outage) bool { return o.of == api && o.from <= first && last <= o.to })
}

// requestLag is what a request takes until it is repeated, near the deadline.
const requestLag = 3 * time.Second

// checkReclaimed is for what ran on a machine that EC2 took: a notice leaves time enough to tell it, or to name it, where nothing is
// wrong and the instance was not beyond that.
func (s *simulation) checkReclaimed(c *simInstance, p *simPod) {
	beyond := slices.ContainsFunc(c.states, func(at stateChange) bool {
		return at.name != inService && at.name != "Terminated" && !(Instance{State: at.name}).isWaiting()
	})
	if !s.hasFaults() && !beyond && (s.force || !s.reportedRemaining[p.Name]) {
		s.violate("%s died untold on %s, which EC2 took after its notice", p.Name, c.id)
	}
}

func (i *simInvocation) reportsRemaining(id string, p *simPod) bool {
	return slices.ContainsFunc(i.reports[id].Pods, func(r drain.PodReport) bool { return r.Name == p.Name && staysWithNode(r) })
}

// staysWithNode reports whether a report says that the pod is killed with the node.
func staysWithNode(p drain.PodReport) bool {
	return p.Outcome == drain.Remained || p.Outcome == drain.Skipped
}

// noteRemaining notes who is named as left by any report.
func (s *simulation) noteRemaining(report Report) {
	for _, p := range report.Pods {
		if staysWithNode(p) {
			s.reportedRemaining[p.Name] = true
		}
	}
}

// checkRestored: an instance that came back has its node as it was, and so have its pods. Sweeps had minutes for it.
func (s *simulation) checkRestored(c *simInstance) {
	if !s.hadQuietMinutes() {
		return
	}
	s.counts["given back"]++
	if c.node.closed {
		s.violate("%s came back, and its node is still closed", c.id)
	}
	s.checkNotPaused(c)
}

// checkNotPaused: of an instance that is to stay for a while, no pod is held up.
func (s *simulation) checkNotPaused(c *simInstance) {
	if c.dead || c.broken || !s.hadQuietMinutes() {
		return
	}
	for _, p := range c.node.pods {
		if (p.paused != nil || p.Labels[drain.EscortLabel] != "") && !p.Terminating() {
			s.violate("%s stays, and its pod %s is still paused or marked", c.id, p.Name)
		}
	}
}

// hadQuietMinutes tells whether sweeps had minutes without faults for what they give back.
func (s *simulation) hadQuietMinutes() bool {
	since := time.Since(s.began)
	outage := slices.ContainsFunc(s.outages, func(o outage) bool { return since < o.to+sweepTime })
	return !outage && s.throttled+s.answersLost == 0
}

// sweepTime is for so many sweeps: one that meets a crash's lease, a node that was closed too lately, and one more.
const sweepTime = 4 * time.Minute

// checkDaemonsShutDown: poolers of DaemonSets are seen out before their node is let go, if the slice had time for it.
func (s *simulation) checkDaemonsShutDown(c *simInstance) {
	by := c.node.completedBy
	if !s.escorts || by == nil || by.dead || c.reclaimed || by.reports[c.id].Status == StatusFailed {
		return
	}
	if !c.node.completedAt.Before(by.began.Add(s.invocationTime - handOffReserve)) {
		return
	}
	for _, p := range c.node.pods {
		if p.plan.daemon && p.plan.phase == "poolers" && !p.shutDown {
			s.violate("%s let %s go without a farewell to %s", by.name, c.id, p.Name)
		}
	}
}

// isFinished is when nothing is left to be done.
func (s *simulation) isFinished() bool {
	for _, c := range s.instances {
		if !c.dead {
			return false
		}
	}
	return len(s.messages) == 0
}

// checkEnd looks at the end of it all.
func (s *simulation) checkEnd() {
	if !s.isFinished() {
		s.violate("it did not end: %d messages are left", len(s.messages))
	}
	for _, p := range s.unsignalled { // the reports are there by now
		s.checkUnsignalled(p.diedOn, p)
	}
	for _, c := range s.instances {
		s.checkDaemonsShutDown(c)
	}
	for body, sent := range s.malformed {
		if sent && !s.deadLettered[body] {
			s.violate("%q is not among the dead letters", body)
		}
	}
}

// hasFaults tells whether anything but the plain course of things can happen.
func (s *simulation) hasFaults() bool {
	return len(s.outages)+s.throttled+s.answersLost > 0 || slices.Max(append(s.crashes, 0)) > 0
}
