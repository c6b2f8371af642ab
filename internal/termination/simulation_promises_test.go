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

// done notes a stage, and that none before it comes after it. One of those that drain needs the lease.
func (i *incarnation) done(c *computer, now stage) {
	if before := i.stages[c.id]; before > now {
		i.s.broken("%s: stage %d of %s after stage %d", i.name, now, c.id, before)
	}
	if i.stages[c.id] = now; now > stageOwn && now < stageComplete && !i.owned[c.id] {
		i.s.broken("%s: stage %d of %s without its lease", i.name, now, c.id)
	}
}

// writes: nothing is written for an instance that does not terminate.
func (i *incarnation) writes(c *computer, what string) {
	if now := c.now(); now != "Terminating:Wait" && now != "Terminating:Proceed" && !i.hadWaited(c) {
		i.s.broken("%s: %s %s, which is %s", i.name, what, c.id, now)
	}
}

// hadWaited: an answer cannot be newer than its question. What changed since the incarnation could last see it is forgiven.
func (i *incarnation) hadWaited(c *computer) bool {
	since := time.Now().Add(-i.s.lag - i.s.slice)
	return slices.ContainsFunc(append(c.past, c.action), func(a *action) bool { return a != nil && a.over && a.endedAt.After(since) })
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
		i.done(c, stageOwn)
		if c.waits() && c.action.owned.IsZero() {
			c.action.owned = time.Now()
		}
	}
}

func (i *incarnation) cordons(c *computer) {
	i.writes(c, "cordoned")
	i.done(c, stageCordon)
}

// restores: what an earlier termination took is given back, and never what the present one did.
func (i *incarnation) restores(c *computer) {
	if c.waits() && c.node.closed && !c.node.cordonedAt.Before(c.action.began) {
		i.s.broken("%s: restored %s, which is terminating", i.name, c.id)
	}
}

func (i *incarnation) evicts(c *computer, p *pod) {
	i.writes(c, "evicted from")
	if i.stages[c.id] < stageCordon {
		i.s.broken("%s: evicted from %s before it was cordoned", i.name, c.id)
	}
	i.done(c, stageEvict)
	if p != nil && p.Terminating() && !i.s.hasLatency() {
		i.s.broken("%s: evicted %s twice", i.name, p.Name)
	}
	if p != nil && (!p.mustGo) {
		i.s.broken("%s: evicted %s, which is to stay", i.name, p.Name)
	}
}

// deletes: by policy, never in the first half, never untried, and not before what all under one budget need.
func (i *incarnation) deletes(c *computer, p *pod, grace time.Duration) {
	i.writes(c, "deleted from")
	i.done(c, stageEvict)
	if p == nil {
		return
	}
	needs := max(p.Grace, 2*time.Second)
	for _, other := range c.node.pods {
		if other != p && other.budget != nil && other.budget == p.budget {
			needs += max(other.Grace, 2*time.Second)
		}
	}
	deadline := i.s.deadline(c.action)
	whole := i.s.bounds.MaxDuration - i.s.bounds.Reserve
	half := deadline.Add(-whole).Add(whole / 2)
	switch now := time.Now(); {
	case !i.s.force:
		i.s.broken("%s: deleted %s, against policy", i.name, p.Name)
	case now.Before(half), now.Before(deadline.Add(-needs)):
		i.s.broken("%s: deleted %s before its moment", i.name, p.Name)
	case p.evictions == 0 && !i.s.hasFaults():
		i.s.broken("%s: deleted %s untried", i.name, p.Name)
	case grace < time.Second || grace > max(p.Grace, time.Second):
		i.s.broken("%s: deleted %s with %s of %s", i.name, p.Name, grace, p.Grace)
	}
}

// deadline is the earliest that the action's can be. A forged event of an instance that has just begun to terminate is true but for
// its clock, and believed if it is young.
func (s *simulation) deadline(a *action) time.Time {
	began := a.began
	for _, stray := range s.strays {
		if at := s.began.Add(stray.at); stray.kind == "in service" && at.Before(began) && a.began.Sub(at) <= oldEvent {
			began = at
		}
	}
	return began.Add(min(s.bounds.MaxDuration, s.hook.limit()) - s.bounds.Reserve)
}

// completes: a node is let go when it is empty, or when its time is over.
func (i *incarnation) completes(c *computer, result Result) {
	i.done(c, stageComplete)
	if time.Now().Before(i.s.deadline(c.action)) {
		for _, p := range c.node.pods {
			if p.mustGo {
				i.s.broken("%s: completed %s with %s while %s was there and there was time", i.name, c.id, result, p.Name)
			}
		}
	}
	c.node.letGoBy = i
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
	case c.action.result == "": // ran out
	case by.dead: // before it could say so
	case by.reports[c.id].Status == StatusFailed: // out of reach until the deadline
		if !s.hasFaults() {
			s.broken("%s: the drain of %s failed, and nothing was wrong", by.name, c.id)
		}
	case !s.force && by.names(c.id, p):
	case s.force && s.hasFaults() && by.names(c.id, p):
		s.counts["pod left by force"]++
		s.note(by, "left by force", p.Name)
	default:
		s.broken("%s died unsignalled with %s; report of %s: %v", p.Name, c.id, by.name, by.reports[c.id])
	}
}

func (i *incarnation) names(id string, p *pod) bool {
	return slices.ContainsFunc(i.reports[id].Pods, func(r drain.PodReport) bool { return r.Name == p.Name && r.Outcome == drain.Left })
}

// reopened: an instance that came back has its node as it was.
func (s *simulation) reopened(c *computer) {
	if c.node.closed && !s.hasFaults() {
		s.broken("%s came back, and its node is still closed", c.id)
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

func (s *simulation) hasLatency() bool { return s.latency > 0 || s.unheard > 0 }
