package drain

import (
	"errors"
	"sync/atomic"
	"time"
)

const (
	// Failed evictions are repeated after firstBackoff, doubling up to lastBackoff: quick enough that one lost request
	// costs nothing, slow enough that a server in trouble is not kept there.
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// ask is what is remembered of the evictions asked of one pod.
type ask struct {
	underWay bool
	escorted bool // at least once
	blocked  bool
	accepted bool        // the latest was
	due      atomic.Bool // the pod's moment has come; its escort looks at it too
	tried    bool        // one was asked since the moment has come
	refused  bool        // and refused: it is time for more than asking
	at       time.Time   // when the latest was asked
	changes  int         // of the cluster when it was asked
	earliest time.Time   // not to be repeated before, whatever changes
	again    time.Time   // not to be repeated before, if nothing does
	leaveBy  time.Time   // when its escort must have asked; zero: there is no hurry
	failures int         // in a row
	said     string      // the last trouble logged
}

// answer is what came of one eviction or deletion.
type answer struct {
	pod      Ref
	err      error
	forced   time.Duration // it was a deletion, with this grace; zero: an eviction
	refusal  error         // of the eviction before that, where nobody has been told of it
	escorted *EscortResult // by an escort; nil: evicted as it was
	underWay bool          // its escort has more to do
}

// come notes whether the pod's moment has come. It may be put off again, when others under its budget have gone.
func (a *ask) come(due bool) {
	if before := a.due.Swap(due); due && !before {
		a.failures = 0
	}
	a.tried, a.refused = a.tried && due, a.refused && due
}

// failed is what is logged of an answer that is an error.
func (a answer) failed() string {
	if a.forced > 0 {
		return "deletion failed"
	}
	return "eviction failed"
}

// backoff doubles with each failure, with a fifth of jitter so that pods refused together do not return together.
func backoff(pod Ref, failures int) time.Duration {
	wait := min(firstBackoff<<min(failures, 10), lastBackoff)
	return wait + Jitter(pod.UID, wait/5)
}

func serverWish(err error) time.Duration {
	var throttled *Throttled
	if errors.As(err, &throttled) {
		return throttled.After
	}
	return 0
}
