package termination

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// stage is how far an incarnation is with an instance, in the promised order.
type stage int

const (
	stageOwn stage = iota + 1
	stageCordon
	stageEvict
	stageVolumes
	stageComplete
)

// checked is how the tally calls a look at a promise.
const checked = "promise checked"

// done notes a stage, and that none before it comes after it. One of those that drain needs the lease.
func (i *incarnation) done(c *computer, now stage) {
	i.s.counts[checked]++
	if before := i.stages[c.id]; before > now {
		i.s.broken("%s: stage %d of %s after stage %d", i.name, now, c.id, before)
	}
	if i.stages[c.id] = now; now > stageOwn && now < stageComplete && !i.owned[c.id] {
		i.s.broken("%s: stage %d of %s without its lease", i.name, now, c.id)
	}
}

// writes: nothing is written for an instance that does not terminate.
func (i *incarnation) writes(c *computer, what string) {
	i.s.counts[checked]++
	if now := c.now(); now != "Terminating:Wait" && now != "Terminating:Proceed" && !i.hadWaited(c) && !i.s.noticed(c) {
		i.s.broken("%s: %s %s, which is %s", i.name, what, c.id, now)
	}
}

// noticed tells whether EC2 has said what a drain may begin for.
func (s *simulation) noticed(c *computer) bool {
	return !c.interrupted.IsZero() || s.onRebalance && !c.recommended.IsZero()
}

// hadWaited: an answer cannot be newer than its question. What changed since the incarnation could last see it is forgiven.
func (i *incarnation) hadWaited(c *computer) bool {
	since := time.Now().Add(-i.s.lag - i.s.slice)
	for n, next := range c.states[1:] {
		if (Instance{State: c.states[n].name}).isWaiting() && next.since.After(since) {
			return true
		}
	}
	return false
}

func (i *incarnation) owns(before *lease, id string) {
	if !i.verified {
		i.s.broken("%s: owns %s before it verified anything", i.name, id)
	}
	if before != nil && !before.owner.dead && before.owner.owned[id] && !before.shaken {
		i.s.broken("%s: took the lease of %s from %s, which lives", i.name, id, before.owner.name)
	}
	if !i.sweeps {
		c := i.s.computer(id)
		i.stages[id], i.completed[id] = stageOwn, false // it begins anew, for another record
		if c.waits() && c.action.owned.IsZero() {
			c.action.owned = time.Now()
		}
	}
}

// deletesLease: only the Lease of an instance that is gone may be deleted with what it says.
func (i *incarnation) deletesLease(id string) {
	if c := i.s.computer(id); !c.dead {
		i.s.broken("%s: deleted the lease of %s, which runs", i.name, id)
	}
}

func (i *incarnation) cordons(c *computer) {
	i.writes(c, "cordoned")
	i.done(c, stageCordon)
}

// restores: what an earlier termination took is given back, and never what the present one did, nor what a notice did.
func (i *incarnation) restores(c *computer) {
	i.s.counts[checked]++
	if c.waits() && c.node.closed && !c.node.cordonedAt.Before(c.action.began) {
		i.s.broken("%s: restored %s, which is terminating", i.name, c.id)
	}
	if c.node.closed && c.node.hook == "" && i.s.noticed(c) {
		i.s.broken("%s: restored %s, which is closed for a notice", i.name, c.id)
	}
}

func (i *incarnation) evicts(c *computer, p *pod) {
	i.writes(c, "evicted from")
	if i.stages[c.id] < stageCordon {
		i.s.broken("%s: evicted from %s before it was cordoned", i.name, c.id)
	}
	i.done(c, stageEvict)
	if p == nil {
		return
	}
	i.signalsOnce(c, p)
	switch {
	case !p.mustGo:
		i.s.broken("%s: evicted %s, which is to stay", i.name, p.Name)
	case !i.s.escorts || p.plan.phase != "poolers" || i.seeing[p.Name]:
	case !i.s.force || !i.s.isTime(c, p.Grace+escortTime):
		i.s.broken("%s: evicted %s behind its escort's back", i.name, p.Name)
	}
}

// signalsOnce: a pod is asked again only if nobody heard what it was answered, or by two owners at once, one of whom could not renew
// its lease. (The API server signals it once all the same.)
func (i *incarnation) signalsOnce(c *computer, p *pod) {
	unknown := i.s.unknown["evict "+p.Name] || i.s.unknown["delete "+p.Name]
	if p.Terminating() && !unknown && !c.hasTwoOwners() {
		i.s.broken("%s: told %s twice", i.name, p.Name)
	}
}

func (c *computer) hasTwoOwners() bool {
	alive := 0
	for _, i := range c.owners {
		if !i.dead && !i.over {
			alive++
		}
	}
	return alive > 1
}

// deletes: by policy, never in the first half, never untried, and not before what all under one budget need.
func (i *incarnation) deletes(c *computer, p *pod, grace time.Duration) {
	i.writes(c, "deleted from")
	i.done(c, stageEvict)
	if p == nil {
		return
	}
	i.signalsOnce(c, p)
	needs := i.s.needs(p)
	for _, other := range c.node.pods {
		if other != p && other.budget != nil && other.budget == p.budget {
			needs += i.s.needs(other)
		}
	}
	switch {
	case !i.s.force:
		i.s.broken("%s: deleted %s, against policy", i.name, p.Name)
	case !i.s.isTime(c, needs):
		i.s.broken("%s: deleted %s before its moment", i.name, p.Name)
	case p.evictions == 0 && !i.s.hasFaults():
		i.s.broken("%s: deleted %s untried", i.name, p.Name)
	case grace < time.Second || grace > max(p.Grace, time.Second):
		i.s.broken("%s: deleted %s with %s of %s", i.name, p.Name, grace, p.Grace)
	}
}

// needs is what a pod takes to leave.
func (s *simulation) needs(p *pod) time.Duration {
	needs := max(p.Grace, 2*time.Second)
	if s.escorts && p.plan.phase == "poolers" {
		needs += escortTime
	}
	return needs
}

// timeSpan is the time of a drain.
type timeSpan struct{ began, deadline time.Time }

// timeSpans are those of the instance, one for each thing that says that it goes, and those of drains that a notice has hastened.
func (s *simulation) timeSpans(c *computer) (all []timeSpan) {
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
func (s *simulation) isTime(c *computer, needs time.Duration) bool {
	now := time.Now()
	return slices.ContainsFunc(s.timeSpans(c), func(k timeSpan) bool {
		return !now.Before(k.began.Add(k.deadline.Sub(k.began)/2)) && !now.Before(k.deadline.Add(-needs))
	})
}

// hasTime tells whether no clock has run out.
func (s *simulation) hasTime(c *computer) bool {
	return !slices.ContainsFunc(s.timeSpans(c), func(k timeSpan) bool { return !time.Now().Before(k.deadline) })
}

// deadline is the earliest that the action's can be. A forged event of an instance that has just begun to terminate is true but for
// its clock, and believed if it is young.
func (s *simulation) deadline(a *action) time.Time {
	began := a.began
	for _, stray := range s.strays {
		if at := s.began.Add(stray.at); stray.kind == "in service" && at.Before(began) && a.began.Sub(at) <= oldEventAge {
			began = at
		}
	}
	return began.Add(min(s.bounds.MaxDuration, s.hook.limit()) - s.bounds.CompletionReserve)
}

// completes: a node is let go when it is empty, or when its time is over.
func (i *incarnation) completes(c *computer, result Result) {
	i.done(c, stageComplete)
	c.node.letGoBy, c.node.letGoAt = i, time.Now()
	over := i.s.deadline(c.action)
	if goes := c.interrupted.Add(spotTime); !c.interrupted.IsZero() && goes.Before(over) {
		over = goes
	}
	for _, p := range c.node.pods {
		if time.Now().Before(over) && p.isWaitedFor(c) {
			i.s.broken("%s: completed %s with %s while %s was there and there was time", i.name, c.id, result, p.Name)
		}
	}
}

// What is waited for in vain: for so long nobody waits for an unreachable kubelet, and for who takes a finalizer off.
const (
	lostWait = 15 * time.Second
	keptWait = 10 * time.Second
	// hardlyBack is how long a kubelet that is heard again may still be taken for lost: what comes after its drain.
	hardlyBack = 5 * time.Second
)

// isWaitedFor tells whether the pod is to go and somebody can see to that, if it has not been told yet.
func (p *pod) isWaitedFor(c *computer) bool {
	lost := !c.node.lostAt.IsZero() && time.Since(c.node.lostAt) >= lostWait
	stays := c.broken || lost || time.Since(c.node.heardAt) < hardlyBack || !p.ContainersEndedAt.IsZero() && time.Since(p.ContainersEndedAt) >= keptWait
	return p.mustGo && !(p.Terminating() && stays)
}

// completesOnce: whoever has heard that an action is completed does not ask again.
func (i *incarnation) completesOnce(id string) {
	if i.completed[id] {
		i.s.broken("%s: completed %s twice", i.name, id)
	}
}

// firstBeat is what an owner may take to keep an action alive.
const firstBeat = 5 * time.Second

func (a *action) keptSince(d time.Duration) bool { return !a.owned.IsZero() && time.Since(a.owned) > d }

// ended: an action runs out only where the seed forces it to.
func (s *simulation) ended(c *computer, a *action) {
	if a.result == "" {
		if s.counts["hook ran out"]++; !s.forgives() || (!s.hasFaults() && a.keptSince(firstBeat)) {
			s.broken("the hook of %s ran out", c.id)
		}
	}
}

// die: what still runs on the node then was told to stop, or is named as left.
func (s *simulation) die(c *computer) {
	s.enter(c, "Terminated")
	c.dead = true
	for _, p := range c.node.pods {
		if p.mustGo && !p.Terminating() {
			s.counts["pod left"]++
			s.left = append(s.left, p)
			p.wasOn = c
		}
	}
}

func (s *simulation) leftBehind(c *computer, p *pod) {
	by := c.node.letGoBy
	switch {
	case c.reclaimed:
		s.leftToEC2(c, p)
	case c.action.result == "": // ran out
	case by.dead: // before it could say so
	case by.reports[c.id].Status == StatusFailed: // out of reach until the deadline
		if !s.hasFaults() {
			s.broken("%s: the drain of %s failed, and nothing was wrong", by.name, c.id)
		}
	case !s.force && by.names(c.id, p):
	case s.force && s.unreachable(c, p) && by.names(c.id, p):
		s.counts["pod left by force, in an outage"]++
	default:
		s.broken("%s died unsignalled with %s; report of %s: %v", p.Name, c.id, by.name, by.reports[c.id])
	}
}

// unreachable tells whether nobody could have told the pod: from its moment on (which is not in the first half), or from when the
// slice began that let its node go, if that was later, the API server did not answer. A request or two are lost at either end.
func (s *simulation) unreachable(c *computer, p *pod) bool {
	from := c.node.letGoAt.Add(-min(max(p.Grace, 2*time.Second), c.node.letGoAt.Sub(c.action.began)/2))
	if by := c.node.letGoBy.began; from.Before(by) {
		from = by
	}
	if r := c.node.letGoBy.reports[c.id]; r.Trigger != "" && r.Deadline.After(c.interrupted.Add(spotTime)) { // heard late: a last look
		from = r.Deadline.Add(-finalPassTime / 2)
	}
	first, last := from.Sub(s.began)+lostRequests, c.node.letGoAt.Sub(s.began)-lostRequests
	return slices.ContainsFunc(s.outages, func(o outage) bool { return o.of == api && o.from <= first && last <= o.to })
}

// lostRequests is what a request takes until it is repeated, near the deadline.
const lostRequests = 3 * time.Second

// leftToEC2 is for what ran on a machine that EC2 took: a notice leaves time enough to tell it, or to name it, where nothing is
// wrong and the instance was not beyond that.
func (s *simulation) leftToEC2(c *computer, p *pod) {
	beyond := slices.ContainsFunc(c.states, func(at state) bool {
		return at.name != inService && at.name != "Terminated" && !(Instance{State: at.name}).isWaiting()
	})
	if !s.hasFaults() && !beyond && (s.force || !s.named[p.Name]) {
		s.broken("%s died untold on %s, which EC2 took after its notice", p.Name, c.id)
	}
}

func (i *incarnation) names(id string, p *pod) bool {
	return slices.ContainsFunc(i.reports[id].Pods, func(r drain.PodReport) bool { return r.Name == p.Name && r.Outcome == drain.Remained })
}

// tells notes who is named as left by any report.
func (s *simulation) tells(report Report) {
	for _, p := range report.Pods {
		if p.Outcome == drain.Remained {
			s.named[p.Name] = true
		}
	}
}

// givenBack: an instance that came back has its node as it was, and so have its pods. Sweeps had minutes for it.
func (s *simulation) givenBack(c *computer) {
	if !s.wasCalm() {
		return
	}
	s.counts["given back"]++
	if c.node.closed {
		s.broken("%s came back, and its node is still closed", c.id)
	}
	s.unpaused(c)
}

// unpaused: of an instance that is to stay for a while, no pod is held up.
func (s *simulation) unpaused(c *computer) {
	if c.dead || c.broken || !s.wasCalm() {
		return
	}
	for _, p := range c.node.pods {
		if (p.paused != nil || p.Labels[drain.EscortLabel] != "") && !p.Terminating() {
			s.broken("%s stays, and its pod %s is still paused or marked", c.id, p.Name)
		}
	}
}

// wasCalm tells whether sweeps had minutes without faults for what they give back.
func (s *simulation) wasCalm() bool {
	since := time.Since(s.began)
	outage := slices.ContainsFunc(s.outages, func(o outage) bool { return since < o.to+calm })
	return !outage && s.throttled+s.unheard == 0
}

// calm is for so many sweeps: one that meets a crash's lease, a node that was closed too lately, and one more.
const calm = 4 * time.Minute

// farewellSaid: poolers of DaemonSets are seen out before their node is let go, if the slice had time for it.
func (s *simulation) farewellSaid(c *computer) {
	by := c.node.letGoBy
	if !s.escorts || by == nil || by.dead || c.reclaimed || by.reports[c.id].Status == StatusFailed {
		return
	}
	if !c.node.letGoAt.Before(by.began.Add(s.slice - handOffReserve)) {
		return
	}
	for _, p := range c.node.pods {
		if p.plan.daemon && p.plan.phase == "poolers" && !p.farewell {
			s.broken("%s let %s go without a farewell to %s", by.name, c.id, p.Name)
		}
	}
}

// settled is when nothing is left to be done.
func (s *simulation) settled() bool {
	for _, c := range s.computers {
		if !c.dead {
			return false
		}
	}
	return len(s.letters) == 0
}

// conclude looks at the end of it all.
func (s *simulation) conclude() {
	if !s.settled() {
		s.broken("it did not end: %d messages are left", len(s.letters))
	}
	for _, p := range s.left { // the reports are there by now
		s.leftBehind(p.wasOn, p)
	}
	for _, c := range s.computers {
		s.farewellSaid(c)
	}
	for body, sent := range s.malformed {
		if sent && !s.buried[body] {
			s.broken("%q is not among the dead letters", body)
		}
	}
}

// hasFaults tells whether anything but the plain course of things can happen.
func (s *simulation) hasFaults() bool {
	return len(s.outages)+s.throttled+s.unheard > 0 || slices.Max(append(s.crashes, 0)) > 0
}
