package drain

import (
	"context"
	"errors"
	"time"
)

// retryShare divides the time until the deadline: a request about a due pod is repeated after no more than that part of it. So a server
// that recovers at the last moment is asked once more, and one that does not gets a few dozen requests.
const retryShare = 8

var (
	// errNoAnswer ends a request that is not answered while a due pod's time runs out.
	errNoAnswer = errors.New("no answer in time")
	// ErrEscortLate is the cause that ends the context of an escort that has not evicted its pod in time. The drain evicts the pod as
	// soon as Run returns: an escort must not spend that time on what ends with the pod.
	ErrEscortLate = errors.New("the escort took too long: the pod must be told to stop now")
)

// response is the result of one request.
type response struct {
	pod         Ref
	err         error
	deletedWith time.Duration // the request was a deletion with this grace; zero: an eviction
	evictError  error         // of the eviction before that deletion, if it was not a response of its own
	escort      *EscortResult // the pod's escort is finished; nil: the request was sent without one
	inFlight    bool          // the pod's escort is not finished
}

// failureMessage returns what is logged of an error.
func (r response) failureMessage() string {
	if r.deletedWith > 0 {
		return "deletion failed"
	}
	return "eviction failed"
}

// retryAfter returns how long the server asks to wait; zero: it does not.
func (r response) retryAfter() time.Duration {
	if throttled, is := errors.AsType[*Throttled](r.err); is {
		return throttled.After
	}
	return 0
}

// evict requests the pod's eviction; of a due pod, with no more grace than there is.
func (r *run) evict(ctx context.Context, pod Planned, now time.Time) {
	ctx, cancel := r.withAnswerTimeout(ctx, pod.ForceAt, now)
	defer cancel()
	o := EvictOptions{}
	if grace := r.Limits.Grace(pod.Grace, now); pod.Due && grace < pod.Grace {
		o.Grace = grace
	}
	r.responses <- response{pod: pod.Ref, err: r.cluster.Evict(ctx, pod.Ref, o)}
}

func (r *run) delete(ctx context.Context, pod Planned, now time.Time) {
	ctx, cancel := r.withAnswerTimeout(ctx, pod.ForceAt, now)
	defer cancel()
	grace := r.Limits.Grace(pod.Grace, now)
	r.responses <- response{pod: pod.Ref, deletedWith: grace, err: r.cluster.Delete(ctx, pod.Ref, grace)}
}

// withAnswerTimeout bounds a request about a pod that will be deleted if the request fails. Other requests have no timeout here.
func (r *run) withAnswerTimeout(ctx context.Context, forceAt, now time.Time) (context.Context, context.CancelFunc) {
	if forceAt.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, r.Limits.answerBy(forceAt, now), errNoAnswer)
}

// retryDelay returns how long to wait after a failure. Once the pod is due, it is the shorter the nearer the deadline is, whatever the
// server asks for.
func (r *run) retryDelay(p *progress, usual time.Duration, now time.Time) time.Duration {
	if !p.due.Load() {
		return usual
	}
	return min(usual, max(minBackoff, r.Limits.Deadline.Sub(now)/retryShare))
}

// escort runs the pod's escort. The eviction that the escort requests is noted when it is accepted, as the escort may have much to do
// after it. Of a due pod, it is followed by a deletion if it fails.
func (r *run) escort(drain context.Context, escort Escort, pod Planned, p requests) {
	ctx, evicted, end := r.withEvictTimeout(drain, p.evictBy)
	defer end()
	request := r.request(pod)
	request.EvictBy = p.evictBy
	request.Evict = func(ctx context.Context, o EvictOptions) error {
		if pod.Terminating() {
			return nil // no pod is signaled twice
		}
		got := response{pod: pod.Ref, inFlight: true}
		if p.due.Load() {
			got = r.evictOrDelete(ctx, drain, pod.Pod, o)
		} else {
			got.err = r.cluster.Evict(ctx, pod.Ref, o)
		}
		if got.err == nil && !o.DryRun {
			evicted()
			r.responses <- got
		}
		return got.err
	}
	result, err := escort.Run(ctx, request)
	r.responses <- response{pod: pod.Ref, err: err, escort: &result}
}

// withEvictTimeout ends an escort some time after it should have evicted its pod, unless evicted is called. That is the time for an
// answer, and no more than half of what then remains to the pod.
func (r *run) withEvictTimeout(ctx context.Context, evictBy time.Time) (_ context.Context, evicted func(), end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	end = func() { cancel(nil) }
	if evictBy.IsZero() {
		return ctx, func() {}, end
	}
	late := evictBy.Add(min(2*dueTimeout, r.Limits.Deadline.Sub(evictBy)/2))
	timer := time.AfterFunc(time.Until(late), func() { cancel(ErrEscortLate) })
	return ctx, func() { timer.Stop() }, func() { timer.Stop(); cancel(nil) }
}

// evictOrDelete requests the eviction of a due pod for its escort, and its deletion if that fails. The deletion is sent though ctx, the
// escort's, ends meanwhile: that an escort is late is a reason for it. A dry run needs no answer: what a PDB says does not matter any more.
func (r *run) evictOrDelete(ctx, drain context.Context, pod Pod, o EvictOptions) response {
	got := response{pod: pod.Ref, inFlight: true}
	if o.DryRun {
		return got
	}
	grace := max(pod.Grace, o.Grace)
	if left := r.Limits.Grace(grace, time.Now()); left < grace {
		o.Grace = left
	}
	try, cancel := context.WithTimeoutCause(ctx, dueTimeout, errNoAnswer)
	got.err = r.cluster.Evict(try, pod.Ref, o)
	cancel()
	if got.err == nil || drain.Err() != nil {
		return got
	}
	got.evictError, got.deletedWith = got.err, r.Limits.Grace(grace, time.Now())
	try, cancel = context.WithTimeoutCause(drain, dueTimeout, errNoAnswer)
	defer cancel()
	got.err = r.cluster.Delete(try, pod.Ref, got.deletedWith)
	return got
}
