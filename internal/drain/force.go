package drain

import (
	"context"
	"errors"
	"time"
)

// lastShare is which part of the time that is left may go by between two tries. A server that comes back at the last moment is
// asked once more, and one that does not gets a few dozen requests.
const lastShare = 8

var (
	// errNoAnswer ends a request that goes unanswered while a pod's time runs out.
	errNoAnswer = errors.New("no answer in time")
	// errLate ends an escort that has not asked for its pod's eviction in time.
	errLate = errors.New("the escort took too long: the pod must be told to stop now")
)

// evict asks for a pod's eviction. Once its moment has come, it asks for no more grace than there is.
func (r *run) evict(ctx context.Context, pod Planned, now time.Time) {
	ctx, cancel := r.promptly(ctx, pod.Moment, now)
	defer cancel()
	o := EvictOptions{}
	if grace := r.Limits.Grace(pod.Grace, now); pod.Due && grace < pod.Grace {
		o.Grace = grace
	}
	r.answers <- answer{pod: pod.Ref, err: r.cluster.Evict(ctx, pod.Ref, o)}
}

// force has a pod deleted.
func (r *run) force(ctx context.Context, pod Planned, now time.Time) {
	ctx, cancel := r.promptly(ctx, pod.Moment, now)
	defer cancel()
	grace := r.Limits.Grace(pod.Grace, now)
	r.answers <- answer{pod: pod.Ref, forced: grace, err: r.cluster.Delete(ctx, pod.Ref, grace)}
}

// promptly bounds a request about a pod that will be forced; where nothing is, requests have all the time they take.
func (r *run) promptly(ctx context.Context, moment, now time.Time) (context.Context, context.CancelFunc) {
	if moment.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, r.Limits.answerBy(moment, now), errNoAnswer)
}

// patience is how long to wait after a failure: once the pod's moment has come, the less the nearer the deadline is, whoever wishes
// for more.
func (r *run) patience(a *ask, wish time.Duration, now time.Time) time.Duration {
	if !a.due.Load() {
		return wish
	}
	return min(wish, max(firstBackoff, r.Limits.Deadline.Sub(now)/lastShare))
}

// hasTime tells whether there is time left for the pod's escort: from its first try on, it knows until when. One that follows a
// terminating pod has nothing to ask for.
func (r *run) hasTime(a *ask, pod Planned, now time.Time) bool {
	if a.leaveBy.IsZero() && r.Limits.Force && !pod.Terminating() {
		a.leaveBy = r.Limits.askBy(pod.Grace, r.Limits.bound(r.Phases[pod.Phase].Lead), now)
	}
	return a.leaveBy.IsZero() || now.Before(a.leaveBy)
}

// hurry ends an escort some time after it should have asked, unless it has: what it needs to be answered, and no more than half
// of what is left to the pod.
func (r *run) hurry(ctx context.Context, leaveBy time.Time) (_ context.Context, asked func(), end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	end = func() { cancel(nil) }
	if leaveBy.IsZero() {
		return ctx, func() {}, end
	}
	late := leaveBy.Add(min(2*lastTry, r.Limits.Deadline.Sub(leaveBy)/2))
	timer := time.AfterFunc(time.Until(late), func() { cancel(errLate) })
	return ctx, func() { timer.Stop() }, func() { timer.Stop(); cancel(nil) }
}

// insist asks for the eviction of a pod whose moment has come and, if that is refused, for its deletion. What a budget would
// say does not matter any more.
func (r *run) insist(ctx context.Context, pod Pod, o EvictOptions) answer {
	got := answer{pod: pod.Ref, underWay: true}
	if o.DryRun {
		return got
	}
	grace := max(pod.Grace, o.Grace)
	if left := r.Limits.Grace(grace, time.Now()); left < grace {
		o.Grace = left
	}
	try, cancel := context.WithTimeoutCause(ctx, lastTry, errNoAnswer)
	got.err = r.cluster.Evict(try, pod.Ref, o)
	cancel()
	if got.err == nil || ctx.Err() != nil {
		return got
	}
	got.refusal, got.forced = got.err, r.Limits.Grace(grace, time.Now())
	got.err = r.cluster.Delete(ctx, pod.Ref, got.forced)
	return got
}
