package drain

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// progress is what is known of one pod: what was requested for it, when, and what came of it.
type progress struct {
	line    PodReport     // outcome and reason are added by State.report
	grace   time.Duration // the pod's own
	claims  []string      // names of its PersistentVolumeClaims
	ending  ending
	reasons reasons
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
)

// reasons are the parts of a pod's reason, in words.
type reasons struct {
	deletion    string // that it was deleted, and with how much grace
	verdict     string
	notAwaited  string // why it is not waited for, or not for long, though it is terminating
	problem     string // with the latest request
	unconfirmed string // like deletion, of one that failed: the API server may have executed it all the same
}

func newProgress(pod Planned) *progress {
	return &progress{
		line:  PodReport{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		grace: pod.Grace, claims: pod.Claims, requests: newRequests(),
	}
}

// observe notes what a plan shows of the pod. known reports whether an earlier plan had it. The verdict stays as it was before the pod
// was terminating: that the pod is then waited for says nothing new, and that it is not, the reason says.
func (p *progress) observe(pod Planned, phase string, known bool) {
	p.ending, p.reasons.notAwaited = endingOf(pod), ""
	switch {
	case known && pod.Terminating() && p.line.Verdict != Skip:
		p.observeTermination(pod)
	case !known || pod.Verdict != p.line.Verdict:
		p.line.Phase, p.line.Verdict = phase, pod.Verdict
		p.reasons.verdict, p.reasons.problem = pod.Reason, ""
	}
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
	case p.line.Verdict == Skip && !evicted:
		return Skipped
	case p.line.Verdict == Skip, p.ending == abandoned:
		return Remained
	case forced && (gone || p.ending == stuck):
		return Forced
	case gone:
		return Evicted
	case p.ending == stuck:
		return Remained
	case !evicted && !forced && len(p.line.BlockedBy) > 0:
		return StillBlocked
	}
	return Waiting
}

func (p *progress) reason() string {
	return sentence(p.reasons.deletion, p.reasons.verdict, p.reasons.notAwaited, p.reasons.problem)
}

// isStopping reports whether the pod was told to stop, and a container may still run.
func (p *progress) isStopping() bool {
	toldToStop := p.ending != running || !p.line.EvictedAt.IsZero() || !p.line.ForcedAt.IsZero()
	return toldToStop && p.ending != ended && p.ending != stuck
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
		p.reasons.problem = r.evictError.Error()
	}
	p.line.ForcedAt, p.reasons.deletion = now, p.deletedWith(r.deletedWith)
	return true
}

// noteBlocked notes the PDBs that refused the pod's eviction.
func (p *progress) noteBlocked(b *Blocked, now time.Time) {
	p.reasons.problem = b.Error()
	if p.line.BlockedAt.IsZero() {
		p.line.BlockedAt = now
	}
	for _, pdb := range b.PDBs {
		if !slices.Contains(p.line.BlockedBy, pdb) {
			p.line.BlockedBy = append(p.line.BlockedBy, pdb)
		}
	}
}

// noteFailure notes a request that failed for another reason than a PDB.
func (p *progress) noteFailure(r response, now time.Time) {
	p.reasons.problem = r.err.Error()
	if r.deletedWith > 0 {
		p.reasons.unconfirmed = p.deletedWith(r.deletedWith)
	}
	if p.ending == stopping || p.ending == abandoned || !p.line.GoneAt.IsZero() {
		p.confirmDeletion(now)
	}
}

// confirmDeletion counts a deletion without an answer as accepted, where the pod was told to stop and no other request is known to
// have done that.
func (p *progress) confirmDeletion(at time.Time) {
	if p.reasons.unconfirmed != "" && p.line.EvictedAt.IsZero() && p.line.ForcedAt.IsZero() {
		p.line.ForcedAt, p.reasons.deletion = at, p.reasons.unconfirmed
	}
}

func (p *progress) deletedWith(grace time.Duration) string {
	if grace > p.grace {
		return fmt.Sprintf("deadline: deleted with %s grace", grace)
	}
	return fmt.Sprintf("deadline: deleted with %s of its %s grace", grace, p.grace)
}
