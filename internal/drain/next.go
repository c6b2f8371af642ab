package drain

import (
	"sync/atomic"
	"time"
)

const (
	// Failed requests are repeated after minBackoff, doubling up to maxBackoff: soon enough that one lost request costs nothing, late
	// enough that an overloaded server can recover.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 10 * time.Second
	// neverRecheck is how soon an eviction is asked for again that PDBs can never allow as they are. A person must change one of them.
	// Asking more often would only load the server; asking less often would keep a node on which someone has just done so.
	neverRecheck = time.Minute
	// heldRecheck is how soon an escort looks again at a pod that it holds, if nothing on the node changes. What it waits for, such as a
	// replica that catches up, takes seconds to minutes. Each look costs a few requests.
	heldRecheck = 30 * time.Second
	// heldInterval is the least time between two such looks. Other pods of the node change all the time while they leave.
	heldInterval = 5 * time.Second
	// maxLastTries is how many deletions of a pod may begin after the deadline, each when the request before it has failed. One may fail
	// by chance; more would be taken from the time for completing.
	maxLastTries = 2
)

// action is a drain's next step for a pod.
type action int

const (
	doNothing action = iota
	doEvict
	doDelete
	doEscort
	doShorten
)

// requests are the requests of one drain for one pod.
type requests struct {
	inFlight  bool
	escorted  bool      // its escort ran at least once
	latest    answer    // to the latest request
	attempt   attempt   // since the pod is due
	sentAt    time.Time // when the latest was sent
	changes   int       // of the cluster, when it was sent
	notBefore time.Time // no next request before, whatever changes
	retryAt   time.Time // no next request before, if nothing changes
	evictBy   time.Time // when its escort must have evicted it; zero: no limit
	failures  int       // in a row
	logged    string    // the latest problem that was logged
	shortened bool      // its grace period was shortened
	planned   Planned   // as it was then
	lastTries int       // deletions after the deadline
	due       *atomic.Bool
}

// answer is the result of the latest request.
type answer int

const (
	unanswered answer = iota
	accepted
	blocked // by a PDB: a change is worth another try
	never   // by a PDB that no change of pods makes room in: a change may be its repair
	refused // by an admission webhook or policy
	held    // by its escort: a change is worth another try
	failed
)

// mayChange reports whether a change is worth another try. The adapter knows the PDBs, and answers without a request while they refuse. An
// escort looks at its cluster.
func (a answer) mayChange() bool { return a == blocked || a == never || a == held }

// attempt is how far the drain has come with a pod that is due.
type attempt int

const (
	untried   attempt = iota
	tried             // its eviction was requested
	exhausted         // and was not accepted: its deletion is next
)

func newRequests() requests { return requests{due: new(atomic.Bool)} }

// conditions are what next decides by, beside the pod itself.
type conditions struct {
	now      time.Time
	limits   Limits
	phase    Phase
	recorded bool // an escort changed something on the pod
	changes  int  // of the cluster, so far
	evicting int  // evictions and deletions in flight, of all pods
	pace     pace
	takes    time.Duration // to ask for a due pod
}

// next decides what to do about an open pod now. wake is when time alone changes a decision to do nothing; zero: never.
func next(p progress, pod Planned, c conditions) (do action, wake time.Time) {
	hasEscort := c.phase.Escort != nil
	justDue := pod.Due && p.attempt == untried && p.latest != accepted // so there is nothing more to wait for
	switch {
	case p.inFlight:
		return doNothing, time.Time{}
	case hasEscort && c.recorded && !p.escorted && pod.Verdict == Wait:
		return doEscort, time.Time{} // an earlier escort crashed
	case pod.cameBack:
		return c.nextFinal(p)
	case pod.shorten && pod.Due && !p.shortened:
		return c.nextShorten(p)
	case pod.Verdict != Evict && !(pod.Verdict == Hold && pod.Due):
		return doNothing, time.Time{}
	case !hasEscort && !pod.Due && c.now.Before(c.pace.restUntil):
		return doNothing, c.pace.restUntil
	case !hasEscort && !c.hasRoom(pod.Due):
		return doNothing, c.lastChance(pod.Due) // the next response makes room
	case !justDue && c.now.Before(p.notBefore):
		return doNothing, p.notBefore
	case !justDue && c.now.Before(p.retryAt) && !(p.latest.mayChange() && c.changes > p.changes):
		return doNothing, p.retryAt
	case hasEscort && (c.phase.Keeps || c.hasTimeForEscort(p, pod)):
		return doEscort, time.Time{}
	case p.attempt == exhausted:
		return doDelete, time.Time{}
	}
	return doEvict, time.Time{}
}

// nextShorten decides about a terminating pod whose grace period outlasts the deadline.
func (c conditions) nextShorten(p progress) (action, time.Time) {
	switch {
	case !c.hasRoom(true):
		return doNothing, c.lastChance(true)
	case p.latest != accepted && c.now.Before(p.retryAt):
		return doNothing, p.retryAt
	}
	return doShorten, time.Time{}
}

// hasRoom reports whether another request may be sent. At its last chance a pod does not wait for others: more requests at once than
// the drain may send cost the server little, and a pod that is not told to stop dies with its instance.
func (c conditions) hasRoom(due bool) bool {
	last, _ := c.limits.isLastChance(c.takes, c.now)
	return c.evicting < c.pace.room(due) || (due && last)
}

// lastChance returns when a due pod does not wait for room any more; zero: never.
func (c conditions) lastChance(due bool) (wake time.Time) {
	if due {
		_, wake = c.limits.isLastChance(c.takes, c.now)
	}
	return wake
}

// evictBy returns when the pod's escort must have evicted it; zero: no limit. The first request fixes it. The escort of a terminating
// pod has nothing to evict.
func (c conditions) evictBy(p progress, pod Planned) time.Time {
	unforced := !c.limits.Force && !c.phase.Keeps // then it may wait until the end
	if c.phase.Escort == nil || !p.evictBy.IsZero() || unforced || c.limits.Deadline.IsZero() || pod.Terminating() {
		return p.evictBy
	}
	return c.limits.evictBy(pod.Grace, c.limits.bound(c.phase.Lead), c.takes, c.now)
}

func (c conditions) hasTimeForEscort(p progress, pod Planned) bool {
	by := c.evictBy(p, pod)
	return by.IsZero() || c.now.Before(by)
}

// setDue notes whether the pod is due. That may be put off again, when other pods of its PDB are gone.
func (r *requests) setDue(due bool) {
	if before := r.due.Swap(due); due && !before {
		r.failures = 0
	}
	if !due {
		r.attempt = untried
	}
}

// start notes that a request is sent.
func (r *requests) start(do action, pod Planned, c conditions) {
	r.inFlight, r.latest, r.sentAt, r.changes = true, unanswered, c.now, c.changes
	r.escorted = r.escorted || do == doEscort
	if pod.Due && r.attempt == untried {
		r.attempt = tried
	}
}

// isUnsignaled reports whether the pod was due at the deadline, and no request told it to stop.
func (r *requests) isUnsignaled() bool {
	return r.due.Load() && !r.sentAt.IsZero() && r.latest != accepted && !r.inFlight && !r.planned.Terminating() && r.lastTries < maxLastTries
}

// setAnswer notes that the latest request failed, as this answer says. What was accepted stays so.
func (r *requests) setAnswer(as answer) {
	if r.latest != accepted {
		r.latest = as
	}
}

// apart returns the time that a server asks to wait, and up to half of it: drains that were throttled together do not come back together.
func apart(pod Ref, wait time.Duration) time.Duration { return wait + Jitter(pod.UID, wait/2) }

// backoff doubles with each failure. A fifth of jitter keeps pods that were refused together from retrying together.
func backoff(pod Ref, failures int) time.Duration {
	wait := min(minBackoff<<min(failures, 10), maxBackoff)
	return wait + Jitter(pod.UID, wait/5)
}
