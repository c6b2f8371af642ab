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
	// ErrTakenOver is the cause that ends the context of a drain that another invocation has taken over. An escort then leaves everything
	// as it is: the other invocation reads what it has recorded, and acts on the pod already.
	ErrTakenOver = errors.New("another invocation has taken the drain over")
)

// response is the result of one request.
type response struct {
	pod         Ref
	err         error
	deletedWith time.Duration // the request was a deletion with this grace; zero: an eviction
	evictError  error         // of the eviction before that deletion, if it was not a response of its own
	escort      *EscortResult // the pod's escort is finished; nil: the request was sent without one
	inFlight    bool          // the pod's escort is not finished
	panicked    bool          // the pod's escort did
	shortens    bool          // the deletion is that of a terminating pod
	evicted     bool          // an eviction was requested, and took this long
	evictTook   time.Duration
	deleteTook  time.Duration
}

// failureMessage returns what is logged of an error.
func (r response) failureMessage() string {
	_, denied := errors.AsType[*Refused](r.err)
	switch {
	case denied && r.deletedWith > 0:
		return "deletion refused"
	case denied:
		return "eviction refused"
	case r.deletedWith > 0:
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

// requestContext returns the context of requests. Requests that are in flight at the deadline are cancelled by their own timeouts, or by
// AnswersBy. If ctx ends before the deadline, they are cancelled with it.
func (l Limits) requestContext(ctx context.Context) (context.Context, context.CancelFunc) {
	requests, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !l.isOver(time.Now()) {
			cancel(context.Cause(ctx))
		}
	})
	release := func() {}
	if !l.Deadline.IsZero() {
		end := l.AnswersBy
		if end.IsZero() {
			end = l.Deadline.Add(lastAnswer)
		}
		requests, release = context.WithDeadlineCause(requests, end, errNoAnswer)
	}
	return requests, func() { stop(); release(); cancel(nil) }
}

// evict requests the pod's eviction, with no more grace than there is.
func (r *run) evict(pod Planned) {
	now := time.Now()
	ctx, cancel := r.requests, context.CancelFunc(func() {})
	if !pod.ForceAt.IsZero() { // it will be deleted if this fails
		ctx, cancel = context.WithDeadlineCause(ctx, r.Limits.answerBy(pod.ForceAt, now), errNoAnswer)
	}
	defer cancel()
	got := response{pod: pod.Ref, evicted: true}
	got.err = r.cluster.Evict(ctx, pod.Ref, r.Limits.capped(EvictOptions{}, pod.Grace, now))
	got.evictTook = time.Since(now)
	r.responses <- got
}

// delete deletes the pod. Of a terminating one it shortens the grace period.
func (r *run) delete(pod Planned, expected time.Duration) {
	now := time.Now()
	ctx, cancel := context.WithDeadlineCause(r.requests, r.Limits.deleteBy(expected, now), errNoAnswer)
	defer cancel()
	got := response{pod: pod.Ref, shortens: pod.shorten, deletedWith: r.Limits.Grace(pod.Grace, now)}
	if pod.shorten {
		got.deletedWith = r.Limits.Grace(r.Limits.Deadline.Sub(r.Limits.StartedAt), now)
	}
	got.err = r.cluster.Delete(ctx, pod.Ref, got.deletedWith)
	got.deleteTook = time.Since(now)
	r.responses <- got
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
	limits, evictBy := r.Limits, p.evictBy
	if r.Phases[pod.Phase].Keeps { // nothing else tells the pod to stop, and nothing shortens its grace
		limits, evictBy = Limits{}, time.Time{}
	}
	ctx, evicted, end := r.withEvictTimeout(drain, evictBy)
	defer end()
	request := r.request(pod)
	request.EvictBy = p.evictBy
	request.Evict = func(ctx context.Context, o EvictOptions) error {
		if pod.Terminating() {
			return nil // no pod is signaled twice
		}
		got := response{pod: pod.Ref, inFlight: true}
		if p.due.Load() {
			got = r.evictOrDelete(ctx, pod.Pod, o, limits)
		} else {
			got.err = r.cluster.Evict(ctx, pod.Ref, limits.capped(o, pod.Grace, time.Now()))
		}
		if got.err == nil && !o.DryRun {
			evicted()
			r.responses <- got
		}
		return got.err
	}
	var result EscortResult
	var err error
	panicked := r.guard("Run", pod.Ref, func() { result, err = escort.Run(ctx, request) })
	if panicked != nil {
		result, err = EscortResult{Strategy: "plain", Reason: panicked.Error()}, panicked
		r.undoAfterPanic(drain, escort, pod)
	}
	r.responses <- response{pod: pod.Ref, err: err, escort: &result, panicked: panicked != nil}
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
// The limits say how much of its grace the pod gets.
func (r *run) evictOrDelete(ctx context.Context, pod Pod, o EvictOptions, limits Limits) response {
	got := response{pod: pod.Ref, inFlight: true}
	if o.DryRun {
		return got
	}
	grace, began := max(pod.Grace, o.Grace), time.Now()
	try, cancel := context.WithDeadlineCause(ctx, r.Limits.answerBy(began, began), errNoAnswer)
	got.err = r.cluster.Evict(try, pod.Ref, limits.capped(o, pod.Grace, began))
	cancel()
	got.evicted, got.evictTook = true, time.Since(began)
	if got.err == nil || r.requests.Err() != nil {
		return got
	}
	began = time.Now()
	got.evictError, got.deletedWith = got.err, limits.Grace(grace, began)
	try, cancel = context.WithDeadlineCause(r.requests, r.Limits.deleteBy(assumedDeletion, began), errNoAnswer)
	defer cancel()
	got.err = r.cluster.Delete(try, pod.Ref, got.deletedWith)
	got.deleteTook = time.Since(began)
	return got
}
