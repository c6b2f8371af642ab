package drain

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// progress is what is known of one pod: what was requested for it, when, and what came of it.
type progress struct {
	line    PodReport     // outcome and reason are added by State.report
	grace   time.Duration // the pod's own
	holdup  Outcome       // why it was not told to stop: a PDB or a webhook; empty: neither
	ending  ending
	reasons reasons
	// ordinary says that it was there when the node was closed; cameBack that its controller brings pods back, and it is not the one
	// that is asked; final that it gets a last deletion because the node is terminated.
	ordinary, cameBack, final bool
	panicked                  string           // with what its escort panicked, which does not run again; empty: it did not
	holding                   bool             // its escort does not want it to be told to stop now
	finished                  bool             // no container runs in it
	block                     *Blocked         // the latest answer of a PDB
	refusedAt                 time.Time        // when a webhook or policy first refused its eviction
	refusal                   string           // its latest words
	told                      []PodEventReason // what its owner was told
	finalRequests             int              // deletions for that
	requests
}

// ending is how far a pod's termination has come.
type ending int

const (
	running   ending = iota
	stopping         // it is terminating; a container may still run
	abandoned        // the same, but it is not waited for: nothing can stop it
	ended            // only finalizers keep it
	stuck            // the same, for so long that it is not waited for any more
	pointless        // it runs, and nothing can stop it: it is not waited for
)

// reasons are the parts of a pod's reason, in words.
type reasons struct {
	deletion    string // that it was deleted, and with how much grace
	verdict     string
	notAwaited  string // why it is not waited for, or not for long, though it is terminating
	problem     string // with the latest request
	shortened   string // that its grace period was shortened, and to what
	unconfirmed string // like deletion, of one that failed: the API server may have executed it all the same
}

func newProgress(pod Planned) *progress {
	return &progress{
		line:  PodReport{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		grace: pod.Grace, requests: newRequests(),
	}
}

// observe notes what a plan shows of the pod. known reports whether an earlier plan had it. The verdict stays as it was before the pod
// was terminating: that the pod is then waited for says nothing new, and that it is not, the reason says.
func (p *progress) observe(pod Planned, phase string, known bool) {
	p.ending, p.reasons.notAwaited, p.finished = endingOf(pod), "", pod.Finished
	switch {
	case pod.unstoppable:
		p.ending, p.reasons.notAwaited = pointless, pod.Reason
		return
	case p.cameBack && pod.Terminating():
		p.observeTermination(pod)
		return
	}
	p.cameBack = pod.cameBack
	switch {
	case known && pod.Terminating() && p.line.Verdict != Skip:
		p.observeTermination(pod)
	case !known || pod.Verdict != p.line.Verdict:
		p.line.Phase, p.line.Verdict = phase, pod.Verdict
		p.reasons.verdict, p.reasons.problem = pod.Reason, ""
	}
}

// setGone notes that the pod is gone. Its labels are not needed any more, and a tenant's may be large.
func (p *progress) setGone(now time.Time) {
	p.line.GoneAt = now
	p.confirmDeletion(now)
	p.planned.Pod = Pod{Ref: p.planned.Ref, Deleted: now}
}

func endingOf(pod Planned) ending {
	terminating, waivable := pod.Terminating(), pod.Verdict == Skip
	switch {
	case !pod.ContainersEndedAt.IsZero() && terminating && waivable:
		return stuck
	case !pod.ContainersEndedAt.IsZero():
		return ended
	case terminating && waivable:
		return abandoned
	case terminating:
		return stopping
	}
	return running
}

func (p *progress) observeTermination(pod Planned) {
	p.confirmDeletion(pod.Deleted)
	switch {
	case p.line.Verdict == Wait:
		p.reasons.verdict = pod.Reason
	case p.ending != stopping:
		p.reasons.notAwaited = pod.Reason
	}
}

// outcome returns what has become of the pod. Where a pod was abandoned, that it is gone does not mean that it was stopped.
func (p *progress) outcome() Outcome {
	gone, forced, evicted := !p.line.GoneAt.IsZero(), !p.line.ForcedAt.IsZero(), !p.line.EvictedAt.IsZero()
	switch {
	case p.cameBack:
		return p.outcomeOfReturn()
	case p.line.Verdict == Skip && !evicted:
		return Skipped
	case p.line.Verdict == Skip, p.ending == abandoned, p.ending == pointless && !gone:
		return Remained
	case forced && (gone || p.ending == stuck):
		return Forced
	case gone:
		return Evicted
	case p.ending == stuck:
		return Remained
	case !evicted && !forced && p.holdup != "":
		return p.holdup
	}
	return Waiting
}

// outcomeOfReturn returns the outcome of a pod that came back. That it was told to stop in the end does not get its controller's pods off
// the node.
func (p *progress) outcomeOfReturn() Outcome {
	gone := !p.line.GoneAt.IsZero()
	switch {
	case gone && !p.isSignaled():
		return Evicted // by someone else
	case !gone && (p.needsFinalSignal() || p.ending == stopping):
		return Waiting
	}
	return Remained
}

func (p *progress) reason() string {
	return Short(Sentence(p.reasons.deletion, p.reasons.verdict, p.reasons.shortened, p.reasons.notAwaited, p.reasons.problem))
}

// isStopping reports whether the pod was told to stop, and a container may still run.
func (p *progress) isStopping() bool {
	return (p.ending != running && p.ending != pointless || p.isSignaled()) && p.ending != ended && p.ending != stuck
}

// noteEvicted notes that the pod's eviction was accepted, and reports whether that is new.
func (p *progress) noteEvicted(now time.Time) bool {
	p.reasons.problem = ""
	if !p.line.EvictedAt.IsZero() {
		return false
	}
	p.line.EvictedAt = now
	return true
}

// noteDeleted notes that the pod's deletion was accepted, and reports whether that is new. Why it had to be deleted stays in the reason.
func (p *progress) noteDeleted(r response, now time.Time) bool {
	if !p.line.ForcedAt.IsZero() && p.reasons.unconfirmed == "" {
		return false
	}
	p.reasons.unconfirmed = ""
	if blocked, is := errors.AsType[*Blocked](r.evictError); is {
		p.noteBlocked(blocked, now)
	} else if r.evictError != nil {
		p.reasons.problem = Short(r.evictError.Error())
	}
	p.line.ForcedAt, p.reasons.deletion = now, p.deletedWith(r.deletedWith)
	return true
}

// noteShortened notes that the grace period of the terminating pod was shortened.
func (p *progress) noteShortened(r response) {
	p.shortened, p.reasons.problem = true, ""
	p.reasons.shortened = fmt.Sprintf("grace period shortened to %s to meet the deadline", r.deletedWith)
}

// noteBlocked notes the PDBs that refused the pod's eviction.
func (p *progress) noteBlocked(b *Blocked, now time.Time) {
	p.reasons.problem, p.holdup, p.block = Short(b.Error()), StillBlocked, b
	if p.line.BlockedAt.IsZero() {
		p.line.BlockedAt = now
	}
	for _, pdb := range b.PDBs {
		if len(p.line.BlockedBy) < maxNames && !slices.Contains(p.line.BlockedBy, pdb) {
			p.line.BlockedBy = append(p.line.BlockedBy, pdb)
		}
	}
}

// noteFailure notes a request that failed for another reason than a PDB.
func (p *progress) noteFailure(r response, now time.Time) {
	p.reasons.problem = Short(r.err.Error())
	_, denied := errors.AsType[*Refused](r.err)
	if denied {
		p.holdup, p.refusedAt, p.refusal = StillRefused, cmp.Or(p.refusedAt, now), p.reasons.problem
	}
	if r.deletedWith > 0 && !denied && !r.shortens {
		p.reasons.unconfirmed = p.deletedWith(r.deletedWith)
	}
	if p.ending == stopping || p.ending == abandoned || !p.line.GoneAt.IsZero() {
		p.confirmDeletion(now)
	}
}

// confirmDeletion counts a deletion without an answer as accepted, where the pod was told to stop and no other request is known to
// have done that, and none may yet be answered.
func (p *progress) confirmDeletion(at time.Time) {
	if p.reasons.unconfirmed != "" && !p.inFlight && p.line.EvictedAt.IsZero() && p.line.ForcedAt.IsZero() {
		p.line.ForcedAt, p.reasons.deletion = at, p.reasons.unconfirmed
	}
}

func (p *progress) deletedWith(grace time.Duration) string {
	if p.final {
		return fmt.Sprintf("node terminating: deleted with %s of its %s grace", grace, p.grace)
	}
	if grace > p.grace {
		return fmt.Sprintf("deadline: deleted with %s grace", grace)
	}
	return fmt.Sprintf("deadline: deleted with %s of its %s grace", grace, p.grace)
}
