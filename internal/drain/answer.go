package drain

import (
	"errors"
	"time"
)

// handle notes a response, and when the pod's next request may be sent.
func (r *run) handle(got response) {
	p, now := r.state.pods[got.pod], time.Now()
	r.finish(p, got)
	if !got.inFlight {
		p.holding, p.line.OnlyCopy = false, false
	}
	r.state.times.note(got)
	if got.panicked {
		p.panicked, p.retryAt, p.notBefore = got.escort.Reason, now, time.Time{}
		return
	}
	r.pace.answered(got)
	if got.err == nil {
		r.handleAccepted(p, got, now)
		return
	}
	if block, is := errors.AsType[*Blocked](got.err); is {
		r.handleBlocked(p, block, now)
		r.logOnce(p, "eviction blocked", got)
	} else if hold, is := errors.AsType[*Held](got.err); is {
		r.handleHeld(p, hold, now)
		r.logOnce(p, "pod held by its escort", got)
	} else if r.isCut(p, got) {
		return
	} else {
		r.handleFailed(p, got, now)
		r.logOnce(p, got.failureMessage(), got)
	}
	switch {
	case got.escort != nil && !r.keeps(p): // without time for another escort, there is nothing to wait for
		p.retryAt = Earliest(p.retryAt, p.evictBy)
	case p.attempt != untried && got.deletedWith == 0 && !p.final: // the deletion follows at once
		p.attempt, p.retryAt, p.failures = exhausted, p.notBefore, 0
	}
}

// isCut reports whether an eviction ended with the drain's time, and not with an answer, though an earlier one was answered. What a PDB or a
// webhook said then is still why the pod is there.
func (r *run) isCut(p *progress, got response) bool {
	_, denied := errors.AsType[*Refused](got.err)
	_, throttled := errors.AsType[*Throttled](got.err)
	isAnswer := denied || throttled
	return r.requests.Err() != nil && !isAnswer && got.deletedWith == 0 && got.escort == nil && p.reasons.problem != ""
}

func (r *run) handleBlocked(p *progress, block *Blocked, now time.Time) {
	as, recheck := blocked, blockedRecheck
	if block.Never {
		as, recheck = never, neverRecheck
	}
	p.setAnswer(as)
	p.failures, p.retryAt = 0, now.Add(recheck)
	p.noteBlocked(block, now)
}

// handleHeld notes that the escort holds the pod. That is its decision, and no failure.
func (r *run) handleHeld(p *progress, hold *Held, now time.Time) {
	p.setAnswer(held)
	p.failures = 0
	lead := r.Phases[p.planned.Phase].Lead
	p.retryAt = p.lastLookOr(now.Add(max(hold.After, r.retryDelay(p, heldRecheck, now))), lead, now)
	p.notBefore = p.lastLookOr(now.Add(max(hold.After, r.retryDelay(p, heldInterval, now))), lead, now)
	p.reasons.problem, p.holdup, p.holding = Short(hold.Error()), StillHeld, true
	p.line.OnlyCopy = hold.OnlyCopy
}

// lastLookOr returns that time, or when the escort's last acts begin, or when it must have evicted the pod: the first of them that is to
// come.
func (r *requests) lastLookOr(at time.Time, lead time.Duration, now time.Time) time.Time {
	for _, last := range []time.Time{r.evictBy.Add(-lead), r.evictBy} {
		if !r.evictBy.IsZero() && last.After(now) {
			return Earliest(at, last)
		}
	}
	return at
}

// handleFailed notes any other error. A webhook's denial is about this pod alone: only a throttling server slows down the drain.
func (r *run) handleFailed(p *progress, got response, now time.Time) {
	as := failed
	if _, denied := errors.AsType[*Refused](got.err); denied {
		as = refused
	}
	p.setAnswer(as)
	p.retryAt = now.Add(r.retryDelay(p, max(backoff(got.pod, p.failures), apart(got.pod, got.retryAfter())), now))
	p.failures++
	r.pace.throttled(got.err, p.sentAt, p.retryAt)
	p.noteFailure(got, now)
}

func (r *run) handleAccepted(p *progress, got response, now time.Time) {
	p.latest, p.failures, p.retryAt = accepted, 0, now.Add(acceptedRecheck)
	switch {
	case got.escort != nil: // the eviction was noted when it was accepted
	case got.shortens:
		p.noteShortened(got)
		r.Log.Info("grace period shortened", "pod", got.pod.String(), "grace", got.deletedWith.String())
	case got.deletedWith > 0:
		if p.noteDeleted(got, now) {
			r.Log.Warn("pod forced", "pod", got.pod.String(), "grace", got.deletedWith.String(), "reason", p.reason())
		}
	case p.noteEvicted(now):
		r.Log.Info("pod evicted", "pod", got.pod.String())
	}
}

// finish notes that a request is no longer in flight, if the response is its last.
func (r *run) finish(p *progress, got response) {
	if got.inFlight {
		return
	}
	p.inFlight = false
	r.inFlight--
	if got.escort == nil {
		r.evicting--
		p.notBefore = time.Time{}
		return
	}
	now := time.Now()
	if p.notBefore = now.Add(escortInterval); !r.keeps(p) || p.evictBy.After(now) {
		p.notBefore = Earliest(p.notBefore, p.evictBy)
	}
	if p.panicked != "" { // this is its keeper's
		got.escort.Reason = p.panicked + "; " + got.escort.Reason
	}
	got.escort.shorten()
	p.line.Escort = got.escort
	r.Log.Info("escort finished", "pod", got.pod.String(), "escort", got.escort)
}

// logOnce logs a problem, and not again until it changes.
func (r *run) logOnce(p *progress, message string, got response) {
	if problem := Short(got.err.Error()); problem != p.logged {
		p.logged = problem
		r.Log.Warn(message, "pod", got.pod.String(), "reason", problem)
	}
}
