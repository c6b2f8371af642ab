package drain

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ledger keeps the report while the drain runs.
type ledger struct {
	phases []Phase
	pods   map[Ref]*PodReport
}

func newLedger(phases []Phase) *ledger {
	return &ledger{phases: phases, pods: map[Ref]*PodReport{}}
}

// goOn takes over the books of a drain that has ended.
func (l *ledger) goOn(before Report) {
	for _, line := range before.Pods {
		l.pods[Ref{line.Namespace, line.Name, line.UID}] = &line
	}
}

// see enters what a pass saw, and returns the pods that were there before and are gone.
func (l *ledger) see(plan Plan, now time.Time) (gone []Ref) {
	present := make(map[Ref]bool, len(plan.Pods))
	for _, pod := range plan.Pods {
		present[pod.Ref] = true
		l.enter(pod)
	}
	for ref, entry := range l.pods {
		if !present[ref] && entry.GoneAt.IsZero() {
			entry.GoneAt = now
			entry.believe(now)
			gone = append(gone, ref)
		}
	}
	return gone
}

// enter keeps the verdict of a pod from before it was terminating: that it then is waited for is no news, and that it is not, the
// reason tells.
func (l *ledger) enter(p Planned) {
	entry, known := l.pods[p.Ref]
	if !known {
		entry = &PodReport{Namespace: p.Namespace, Name: p.Name, UID: p.UID, claims: p.Claims, grace: p.Grace}
		l.pods[p.Ref] = entry
	}
	entry.ended = !p.ContainersEndedAt.IsZero()
	entry.stopping, entry.staying = p.Terminating() && !entry.ended, ""
	if known && p.Terminating() && entry.Verdict != Skip {
		entry.followed(p)
	} else if !known || p.Verdict != entry.Verdict {
		entry.Phase, entry.Verdict, entry.judged, entry.trouble = l.phases[p.Phase].Name, p.Verdict, p.Reason, ""
	}
}

// followed notes what has become of a pod that is terminating.
func (p *PodReport) followed(now Planned) {
	p.believe(now.Deleted)
	p.waived = now.Verdict == Skip
	switch {
	case p.Verdict == Wait:
		p.judged = now.Reason
	case p.waived || p.ended:
		p.staying = now.Reason
	}
}

// report closes the books. Pods stand in the order of leaving.
func (l *ledger) report(clocks []Clock) Report {
	report := Report{Phases: []PhaseReport{}, Pods: make([]PodReport, 0, len(l.pods))}
	order := map[string]int{}
	for i, phase := range l.phases {
		order[phase.Name] = i
		if clock := clocks[i]; !clock.Began.IsZero() {
			report.Phases = append(report.Phases, PhaseReport{phase.Name, clock.Began, clock.Emptied})
		}
	}
	for _, entry := range l.pods {
		line := *entry
		line.Outcome, line.Reason = entry.outcome(), entry.reason()
		report.Pods = append(report.Pods, line)
	}
	slices.SortFunc(report.Pods, func(a, b PodReport) int {
		return cmp.Or(cmp.Compare(order[a.Phase], order[b.Phase]), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return report
}

// outcome: where nobody waited for a pod, that it is gone does not mean that it was stopped, unless it had ended before.
func (p *PodReport) outcome() Outcome {
	gone, forced := !p.GoneAt.IsZero(), !p.ForcedAt.IsZero()
	switch {
	case p.Verdict == Skip, p.waived && !p.ended:
		return Remained
	case forced && (gone || p.waived):
		return Forced
	case p.waived && !gone:
		return Remained
	case gone:
		return Evicted
	case p.EvictedAt.IsZero() && !forced && len(p.BlockedBy) > 0:
		return StillBlocked
	}
	return Waiting
}

func (p *PodReport) reason() string { return sentence(p.forced, p.judged, p.staying, p.trouble) }

// accept notes that the pod's eviction was accepted, and tells whether that is news.
func (p *PodReport) accept(now time.Time) bool {
	p.trouble = ""
	if !p.EvictedAt.IsZero() {
		return false
	}
	p.EvictedAt = now
	return true
}

// force notes that the pod's deletion was accepted, and tells whether that is news. Why it came to that stays in the reason.
func (p *PodReport) force(got answer, now time.Time) bool {
	if !p.ForcedAt.IsZero() && p.doubted == "" {
		return false
	}
	p.doubted = ""
	var blocked *Blocked
	if errors.As(got.refusal, &blocked) {
		p.block(blocked, now)
	} else if got.refusal != nil {
		p.trouble = got.refusal.Error()
	}
	p.ForcedAt, p.forced = now, p.deletedWith(got.forced)
	return true
}

// fail notes a request that failed for another reason than a budget.
func (p *PodReport) fail(got answer, now time.Time) {
	p.trouble = got.err.Error()
	if got.forced > 0 {
		p.doubted = p.deletedWith(got.forced)
	}
	if p.stopping || !p.GoneAt.IsZero() {
		p.believe(now)
	}
}

// believe takes a deletion that was not answered for accepted, where the pod was told to stop and nobody else is known to have
// done that.
func (p *PodReport) believe(at time.Time) {
	if p.doubted != "" && p.EvictedAt.IsZero() && p.ForcedAt.IsZero() {
		p.ForcedAt, p.forced = at, p.doubted
	}
}

func (p *PodReport) deletedWith(grace time.Duration) string {
	if grace > p.grace {
		return fmt.Sprintf("deadline: deleted with %s grace", grace)
	}
	return fmt.Sprintf("deadline: deleted with %s of its %s grace", grace, p.grace)
}

func (p *PodReport) block(b *Blocked, now time.Time) {
	p.trouble = b.Error()
	if p.BlockedAt.IsZero() {
		p.BlockedAt = now
	}
	for _, budget := range b.PDBs {
		if !slices.Contains(p.BlockedBy, budget) {
			p.BlockedBy = append(p.BlockedBy, budget)
		}
	}
}
