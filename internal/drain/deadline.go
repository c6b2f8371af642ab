package drain

import (
	"cmp"
	"slices"
	"time"
)

const (
	// minNeed is the least time before the deadline at which a pod is told to stop, however short its own grace: it covers an
	// eviction and a deletion that are both answered slowly. Less would leave pods unsignaled when a request is lost. More would
	// be taken from the time for which PDBs are respected.
	minNeed = 2 * time.Second
	// minGrace is what a deleted pod gets where no time is left, or where its own grace is zero. With zero, the API server removes
	// the pod before its kubelet has stopped it
	// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-forced).
	minGrace = time.Second
	// dueTimeout is how long a request about a due pod may go unanswered: long enough for a slow webhook, short enough that most of
	// the pod's grace remains after it.
	dueTimeout = 3 * time.Second
	// minDueTimeout is what such a request gets near the deadline, where dueTimeout would be more than half of the time that is left. A
	// loaded API server answers within it. Less would give up the last request for a pod while its answer is under way.
	minDueTimeout = 500 * time.Millisecond
	// openFactor times what a pod needs before the deadline, its phase no longer holds it back. Its eviction is tried in the time
	// gained, its PDBs become known, and another of their pods may go first. More would spoil the order for pods that still have
	// time.
	openFactor = 2
)

// Limits are a drain's times, and what becomes of pods that do not stop within them. With the zero Limits there is no deadline.
type Limits struct {
	StartedAt, Deadline time.Time
	Force               bool // pods are deleted, in time to stop; otherwise they are kept
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

// Grace returns how much of its own grace a pod gets if it is told to stop now: the time until the deadline, in whole seconds as in
// the API.
func (l Limits) Grace(own time.Duration, now time.Time) time.Duration {
	remaining := l.Deadline.Sub(now)
	if rest := remaining % time.Second; rest > 0 {
		remaining += time.Second - rest
	}
	return max(minGrace, min(own, remaining))
}

// latest returns the last moment that is this long before the deadline. It is never in the first half of the drain's time, in which
// PDBs are always respected.
func (l Limits) latest(before time.Duration) time.Time {
	return later(l.Deadline.Add(-before), middle(l.StartedAt, l.Deadline))
}

// need returns how long before the deadline a pod must be told to stop: its grace, and before that the time of its escort. It is
// never more than the drain's whole time, so that sums do not overflow.
func (l Limits) need(grace, lead time.Duration) time.Duration {
	return min(max(grace, minNeed)+lead, l.Deadline.Sub(l.StartedAt))
}

// evictBy returns when an escort must have evicted its pod, so that the pod still has its grace. Where there is not enough time for
// both, each has half.
func (l Limits) evictBy(grace, lead time.Duration, now time.Time) time.Time {
	from := later(now, l.latest(l.need(grace, lead)))
	return later(l.Deadline.Add(-l.need(grace, 0)), middle(from, l.Deadline))
}

// answerBy returns when a request about a pod times out: when the pod is due, and from then on soon.
func (l Limits) answerBy(forceAt, now time.Time) time.Time {
	return later(forceAt, now.Add(min(dueTimeout, max(minDueTimeout, l.Deadline.Sub(now)/2))))
}

// apply sets ForceAt of the pods, and opens those whose time is short. wake is when the next pod is due or opened.
func (l Limits) apply(pods []Planned, now time.Time) (wake time.Time) {
	if l.Deadline.IsZero() {
		return time.Time{}
	}
	if l.Force {
		l.schedule(pods)
	}
	for i := range pods {
		p := &pods[i]
		due, next := reached(p.ForceAt, now)
		wake = earliest(wake, next)
		p.Due, p.Open = due, due
		if p.Verdict == Evict {
			open, next := reached(l.latest(openFactor*p.need), now)
			wake = earliest(wake, next)
			p.Open = p.Open || open
		}
	}
	return wake
}

// schedule sets when each pod is deleted if it is not terminating by then: at the last moment that leaves it its grace. Pods of one
// PDB follow each other. The first is deleted early enough for all of them; the next when it is gone, or at its own last moment. The
// pod that needs most time is the first: in any other order two last moments would come together sooner.
func (l Limits) schedule(pods []Planned) {
	total, busy := map[string]time.Duration{}, map[string]bool{}
	wanted := make([]*Planned, 0, len(pods))
	for i := range pods {
		p := &pods[i]
		if p.Verdict == Evict || p.Verdict == Hold {
			wanted = append(wanted, p)
		}
		for _, pdb := range p.PDBs {
			busy[pdb] = busy[pdb] || p.Verdict == Wait
		}
	}
	slices.SortStableFunc(wanted, func(a, b *Planned) int { return cmp.Compare(b.need, a.need) })
	for _, p := range wanted {
		for _, pdb := range p.PDBs {
			total[pdb] += p.need
		}
	}
	for _, p := range wanted {
		p.ForceAt = l.latest(p.slot(total, busy))
	}
}

// slot returns how long before the deadline the pod is deleted, and marks its PDBs as busy. total is what all pods of a PDB need.
func (p Planned) slot(total map[string]time.Duration, busy map[string]bool) time.Duration {
	all, first := p.need, true
	for _, pdb := range p.PDBs {
		all = max(all, total[pdb])
		first = first && !busy[pdb]
		busy[pdb] = true
	}
	if first {
		return all
	}
	return p.need
}

// reached reports whether this time has come, and if not, when it comes. The zero time never comes.
func reached(when, now time.Time) (yes bool, wake time.Time) {
	if when.IsZero() || when.After(now) {
		return false, when
	}
	return true, time.Time{}
}

// earliest ignores zero times, which stand for never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func middle(a, b time.Time) time.Time { return a.Add(b.Sub(a) / 2) }
