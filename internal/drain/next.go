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
)

// action is a drain's next step for a pod.
type action int

const (
	doNothing action = iota
	doEvict
	doDelete
	doEscort
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
	due       *atomic.Bool
}

// answer is the result of the latest request.
type answer int

const (
	unanswered answer = iota
	accepted
	blocked // by a PDB: a change is worth another try
	failed
)

// attempt is how far the drain has come with a pod that is due.
type attempt int

const (
	untried attempt = iota
	tried           // its eviction was requested
	refused         // and was not accepted: its deletion is next
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
	case pod.Verdict != Evict && !(pod.Verdict == Hold && pod.Due):
		return doNothing, time.Time{}
	case !hasEscort && !pod.Due && c.now.Before(c.pace.restUntil):
		return doNothing, c.pace.restUntil
	case !hasEscort && c.evicting >= c.pace.room(pod.Due):
		return doNothing, time.Time{} // the next response makes room
	case !justDue && c.now.Before(p.notBefore):
		return doNothing, p.notBefore
	case !justDue && c.now.Before(p.retryAt) && !(p.latest == blocked && c.changes > p.changes):
		return doNothing, p.retryAt
	case hasEscort && c.hasTimeForEscort(p, pod):
		return doEscort, time.Time{}
	case p.attempt == refused:
		return doDelete, time.Time{}
	}
	return doEvict, time.Time{}
}

// evictBy returns when the pod's escort must have evicted it; zero: no limit. The first request fixes it. The escort of a terminating
// pod has nothing to evict.
func (c conditions) evictBy(p progress, pod Planned) time.Time {
	if c.phase.Escort == nil || !p.evictBy.IsZero() || !c.limits.Force || pod.Terminating() {
		return p.evictBy
	}
	return c.limits.evictBy(pod.Grace, c.limits.bound(c.phase.Lead), c.now)
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

// setAnswer notes that the latest request failed, as this answer says. What was accepted stays so, whatever its escort does then.
func (r *requests) setAnswer(as answer) {
	if r.latest != accepted {
		r.latest = as
	}
}

// backoff doubles with each failure. A fifth of jitter keeps pods that were refused together from retrying together.
func backoff(pod Ref, failures int) time.Duration {
	wait := min(minBackoff<<min(failures, 10), maxBackoff)
	return wait + Jitter(pod.UID, wait/5)
}
