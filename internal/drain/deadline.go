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
	// deleteTimeout is how long a deletion may go unanswered: as long as the API server waits for a webhook unless it is told otherwise
	// (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#timeouts). A deletion that is given up
	// earlier is not executed. A longer wait would not gain an answer.
	deleteTimeout = 10 * time.Second
	// deleteTimeoutFactor is how many times its expected duration a deletion may take before it is given up. Less would give up deletions
	// that are only a bit slower than those before.
	deleteTimeoutFactor = 2
	// stopSlack is by how much a termination may outlast the deadline before its grace period is shortened. Clocks differ, and a grace
	// period is rounded up and starts when the server executes the request. More would let a pod be killed with its instance.
	stopSlack = 5 * time.Second
	// shortenNeed is how long before the deadline that is done at the latest: the default grace period. A kubelet then gives up what
	// keeps the pod from its signal, such as a preStop hook. Earlier would take time from a pod that uses it.
	shortenNeed = 30 * time.Second
	// timerSlack is by how much a timer may be early. A context that ends this long before the deadline ends because of it.
	timerSlack = 100 * time.Millisecond
	// lastAnswer is for how long requests that are in flight at the deadline may go unanswered where the caller sets no limit: as long as
	// the longest of them. A longer wait would be taken from the time for completing.
	lastAnswer = deleteTimeout
	// openFactor is how many times what a pod needs is left before the deadline when its phase no longer holds it back. Its eviction is tried
	// in the time gained, its PDBs become known, and another of their pods may go first. More would spoil the order for pods that still have
	// time.
	openFactor = 2
)

// Limits are a drain's times, and what becomes of pods that do not stop within them. With the zero Limits there is no deadline.
type Limits struct {
	StartedAt, Deadline time.Time
	Force               bool // pods are deleted, in time to stop; otherwise they are kept
	// MaxWait bounds how long a phase holds back the next and how long an escort takes; zero: each its own time.
	MaxWait time.Duration
	// AnswersBy is when requests are cancelled that are in flight at the deadline: before the invocation ends. Zero: after their own
	// timeouts.
	AnswersBy time.Time
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
	if l.Deadline.IsZero() {
		return max(minGrace, own)
	}
	remaining := l.Deadline.Sub(now)
	if rest := remaining % time.Second; rest > 0 {
		remaining += time.Second - rest
	}
	return max(minGrace, min(own, remaining))
}

// capped returns the options of an eviction with no more grace than there is time. own is the pod's grace.
func (l Limits) capped(o EvictOptions, own time.Duration, now time.Time) EvictOptions {
	wanted := max(own, o.Grace)
	if grace := l.Grace(wanted, now); grace < wanted {
		o.Grace = grace
	}
	return o
}

// outlasts reports whether the termination of a pod ends so long after the deadline that its grace period must be shortened.
func (l Limits) outlasts(p Pod) bool {
	return l.Force && p.Terminating() && p.ContainersEndedAt.IsZero() && p.StopsBy.After(l.Deadline.Add(stopSlack))
}

// latest returns the last moment that is this long before the deadline. It is never in the first half of the drain's time, in which
// PDBs are always respected.
func (l Limits) latest(before time.Duration) time.Time {
	return Later(l.Deadline.Add(-before), middle(l.StartedAt, l.Deadline))
}

// need returns how long before the deadline a pod must be told to stop: its grace, and before that the time of its escort. It is
// never more than the drain's whole time, so that sums do not overflow.
func (l Limits) need(grace, lead time.Duration) time.Duration {
	return min(max(grace, minNeed)+lead, l.Deadline.Sub(l.StartedAt))
}

// evictBy returns when an escort must have evicted its pod, so that the pod still has its grace. Where there is not enough time for
// both, each has half. takes is what it takes to ask.
func (l Limits) evictBy(grace, lead, takes time.Duration, now time.Time) time.Time {
	from, last := Later(now, l.latest(l.need(grace, lead)+takes)), l.Deadline.Add(-l.need(grace, 0)-takes)
	if lead == 0 {
		return from
	}
	if !from.Add(lead).After(last) {
		return last
	}
	return Later(last, middle(from, l.Deadline))
}

// answerBy returns when an eviction of a pod times out: when the pod is due, and from then on soon. Its deletion follows.
func (l Limits) answerBy(forceAt, now time.Time) time.Time {
	return Later(forceAt, now.Add(min(dueTimeout, max(minDueTimeout, l.Deadline.Sub(now)/2))))
}

// deleteBy returns when a deletion times out that is expected to take this long. There is time for another one after it, unless this is
// the last, or the server is slow.
func (l Limits) deleteBy(expected time.Duration, now time.Time) time.Time {
	left := l.Deadline.Sub(now)
	if left <= dueTimeout {
		return now.Add(deleteTimeout)
	}
	return now.Add(min(deleteTimeout, max(dueTimeout, left/2, deleteTimeoutFactor*expected)))
}

// isLastChance reports whether a pod that is not asked for now may be asked for too late. takes is what it takes to ask.
func (l Limits) isLastChance(takes time.Duration, now time.Time) (yes bool, wake time.Time) {
	if !l.Force {
		return false, time.Time{}
	}
	return reached(l.Deadline.Add(-minGrace-takes), now)
}

// isOver reports whether the deadline is reached. The timer of a context may be a little early.
func (l Limits) isOver(now time.Time) bool {
	return !l.Deadline.IsZero() && !now.Before(l.Deadline.Add(-timerSlack))
}

// apply sets ForceAt of the pods, and opens those whose time is short. wake is when the next pod is due or opened.
func (l Limits) apply(pods []Planned, ask Ask, now time.Time) (wake time.Time) {
	if l.Deadline.IsZero() {
		return time.Time{}
	}
	if l.Force {
		l.schedule(pods, ask)
	}
	for i := range pods {
		p := &pods[i]
		if p.cameBack && !l.Force {
			p.ForceAt = l.latest(p.need)
		}
		due, next := reached(p.ForceAt, now)
		wake = Earliest(wake, next)
		p.Due, p.Open = due, due
		if p.Verdict == Evict {
			open, next := reached(l.latest(openFactor*p.need), now)
			wake = Earliest(wake, next)
			p.Open = p.Open || open
		}
	}
	return wake
}

// schedule sets when each pod is deleted if it is not terminating by then: at the last moment that leaves it its grace. Pods of one
// PDB follow each other. The first is deleted early enough for all of them; the next when it is gone, or at its own last moment. The
// pod that needs most time is the first: in any other order two last moments would come together sooner. Pods whose last moments come
// together start earlier, because they are asked for one after the other.
func (l Limits) schedule(pods []Planned, ask Ask) {
	total, busy := map[string]time.Duration{}, map[string]bool{}
	wanted := make([]*Planned, 0, len(pods))
	for i := range pods {
		p := &pods[i]
		if p.isWanted() || p.shorten || p.cameBack {
			wanted = append(wanted, p)
		}
		for _, pdb := range p.PDBs {
			busy[pdb] = busy[pdb] || p.Verdict == Wait
		}
	}
	slices.SortStableFunc(wanted, func(a, b *Planned) int { return cmp.Compare(b.need, a.need) })
	for _, p := range wanted {
		for _, pdb := range p.PDBs {
			if p.isWanted() {
				total[pdb] += p.need + ask.Takes
			}
		}
	}
	ask.spread(wanted)
	for _, p := range wanted {
		p.ForceAt = l.latest(p.slot(total, busy))
	}
}

// isWanted reports whether the drain wants the pod to go, and it is not terminating.
func (p Planned) isWanted() bool { return p.Verdict == Evict || p.Verdict == Hold }

// slot returns how long before the deadline the pod is deleted, and marks its PDBs as busy. total is what all pods of a PDB need.
func (p Planned) slot(total map[string]time.Duration, busy map[string]bool) time.Duration {
	if !p.isWanted() {
		return p.need
	}
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
