package drain

import (
	"cmp"
	"slices"
	"time"
)

const (
	// leastNeed is the least time before the deadline at which a pod is told to stop, however short its own grace: it is what an
	// eviction and a deletion take to be answered on a bad day. Less would leave pods unsignalled when a request is lost, more
	// would be taken from what their budgets are given.
	leastNeed = 2 * time.Second
	// leastGrace is what a deleted pod gets even where there is no time left, or where its own grace is none: with zero, the API
	// server forgets the pod before its kubelet has stopped it
	// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-forced).
	leastGrace = time.Second
	// lastTry is how long a request may go unanswered once the pod's moment has come: long enough for a slow webhook, short
	// enough that most of the pod's grace is left when it is given up.
	lastTry = 3 * time.Second
	// opening is how much earlier than a pod its phase lets go of it, as a multiple of what the pod needs: as much time again, in
	// which its eviction is tried, its budgets become known, and another of them may go before it. More would spoil the order of
	// leaving for pods that still have time.
	opening = 2
)

// Limits are a drain's times, and what becomes of the pods that do not leave within them. With the zero Limits there is no
// deadline.
type Limits struct {
	StartedAt, Deadline time.Time
	Force               bool // they are deleted, in time to stop; otherwise they are left
	// MaxWait bounds how long a phase holds back the next and how long an escort takes; zero: each its own time.
	MaxWait time.Duration
}

// bound returns the time of a phase or an escort as MaxWait bounds it.
func (l Limits) bound(own time.Duration) time.Duration {
	if l.MaxWait > 0 {
		return min(own, l.MaxWait)
	}
	return own
}

// Grace is what a pod gets of its own grace if it is told to stop now: what there is until the deadline, in whole seconds, as
// the API has it.
func (l Limits) Grace(own time.Duration, now time.Time) time.Duration {
	left := l.Deadline.Sub(now)
	if rest := left % time.Second; rest > 0 {
		left += time.Second - rest
	}
	return max(leastGrace, min(own, left))
}

// last is the last moment that leaves so much time until the deadline. It is never in the first half of the drain's time,
// which belongs to the budgets.
func (l Limits) last(needs time.Duration) time.Time {
	return later(l.Deadline.Add(-needs), middle(l.StartedAt, l.Deadline))
}

// needs is how long before the deadline a pod has to be told to stop: its grace, and before that what its escort takes. No
// more than the drain's whole time counts, so that sums of them mean something.
func (l Limits) needs(grace, lead time.Duration) time.Duration {
	return min(max(grace, leastNeed)+lead, l.Deadline.Sub(l.StartedAt))
}

// askBy is when an escort must have asked for its pod's eviction: what comes after it is the pod's grace. Where there is not
// enough time for both, each has half.
func (l Limits) askBy(grace, lead time.Duration, now time.Time) time.Time {
	from := later(now, l.last(l.needs(grace, lead)))
	return later(l.Deadline.Add(-l.needs(grace, 0)), middle(from, l.Deadline))
}

// answerBy is when a request about a pod is given up: when its moment comes, or from then on soon.
func (l Limits) answerBy(moment, now time.Time) time.Time {
	return later(moment, now.Add(min(lastTry, l.Deadline.Sub(now)/2)))
}

// apply gives the pods that are to leave their moments, and opens those for whom time is short. wake is when it does the next
// such thing.
func (l Limits) apply(pods []Planned, now time.Time) (wake time.Time) {
	if l.Deadline.IsZero() {
		return time.Time{}
	}
	if l.Force {
		l.moments(pods)
	}
	for i := range pods {
		p := &pods[i]
		due, next := come(p.Moment, now)
		wake = earliest(wake, next)
		p.Due, p.Open = due, due
		if p.Verdict == Evict {
			open, next := come(l.last(opening*p.needs), now)
			wake = earliest(wake, next)
			p.Open = p.Open || open
		}
	}
	return wake
}

// come tells whether a moment has come, and if not, when it will; the zero moment never comes.
func come(moment, now time.Time) (bool, time.Time) {
	if moment.IsZero() {
		return false, time.Time{}
	}
	return at(moment, now)
}

// moments says of each pod when it is deleted if it has not begun to leave by then: at the last moment that leaves it its
// grace. Pods under one budget go one after the other: the first of them at the last moment that leaves the time that all of
// them need, the next when it is gone, or when its own last moment has come. Those who need most go first: any other order would
// have two of them come at once sooner.
func (l Limits) moments(pods []Planned) {
	together, taken := map[string]time.Duration{}, map[string]bool{}
	leaving := make([]*Planned, 0, len(pods))
	for i := range pods {
		p := &pods[i]
		if p.Verdict == Evict || p.Verdict == Hold {
			leaving = append(leaving, p)
		}
		for _, budget := range p.PDBs {
			taken[budget] = taken[budget] || p.Verdict == Wait
		}
	}
	slices.SortStableFunc(leaving, func(a, b *Planned) int { return cmp.Compare(b.needs, a.needs) })
	for _, p := range leaving {
		for _, budget := range p.PDBs {
			together[budget] += p.needs
		}
	}
	for _, p := range leaving {
		p.Moment = l.last(p.turn(together, taken))
	}
}

// turn takes the pod's place under its budgets, and returns how long before the deadline it is the pod's turn.
func (p Planned) turn(together map[string]time.Duration, taken map[string]bool) time.Duration {
	all, first := p.needs, true
	for _, budget := range p.PDBs {
		all = max(all, together[budget])
		first = first && !taken[budget]
		taken[budget] = true
	}
	if first {
		return all
	}
	return p.needs
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func middle(a, b time.Time) time.Time { return a.Add(b.Sub(a) / 2) }
