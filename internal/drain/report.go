package drain

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Report is the result of a drain, pod by pod: what was done, when, and why.
type Report struct {
	Phases []PhaseReport `json:"phases"`
	Pods   []PodReport   `json:"pods"`
}

// PhaseReport says when a phase that had pods was acted on, and when the last of them was gone.
type PhaseReport struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// PodReport is one pod's line.
type PodReport struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       string    `json:"uid"`
	Phase     string    `json:"phase"`
	Verdict   Verdict   `json:"verdict"`
	Outcome   Outcome   `json:"outcome,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	BlockedBy []string  `json:"blockedBy,omitempty"` // every budget that ever refused it, as namespace/name
	Escort    *Escorted `json:"escort,omitempty"`
	Warnings  []string  `json:"warnings,omitempty"` // of a plan: what would make its leaving worse than need be
	EvictedAt time.Time `json:"evictedAt,omitzero"` // when the API server accepted the eviction
	GoneAt    time.Time `json:"goneAt,omitzero"`

	claims []string
}

// Outcome is what became of a pod.
type Outcome string

// The outcomes.
const (
	Evicted      Outcome = "evicted" // it left the node after being signalled
	Forced       Outcome = "forced"  // it was deleted because time ran out
	Left         Outcome = "left"    // it stays until the node goes
	Waiting      Outcome = "waiting" // it was still there when the report was made
	StillBlocked Outcome = "blocked" // a budget kept it
)

// Remaining are the pods that the drain still wants to be gone.
func (r Report) Remaining() []PodReport {
	return slices.DeleteFunc(slices.Clone(r.Pods), func(p PodReport) bool {
		return p.Outcome != Waiting && p.Outcome != StillBlocked
	})
}

// Claims are the PersistentVolumeClaims, as namespace/name, of the pods that left.
func (r Report) Claims() []string {
	var claims []string
	for _, p := range r.Pods {
		for _, claim := range p.claims {
			if !p.GoneAt.IsZero() {
				claims = append(claims, p.Namespace+"/"+claim)
			}
		}
	}
	return claims
}

// Block notes on a plan's pods the budgets that would refuse their eviction now.
func (r *Report) Block(budgets []Budget) {
	for i := range r.Pods {
		p := &r.Pods[i]
		for _, b := range budgets {
			if b.Allowed <= 0 && slices.Contains(b.Pods, p.Namespace+"/"+p.Name) {
				p.BlockedBy = append(p.BlockedBy, b.Name)
			}
		}
	}
}

func (r *Report) warn(pod Ref, warnings []string) {
	for i := range r.Pods {
		if p := &r.Pods[i]; p.UID == pod.UID && p.Namespace == pod.Namespace && p.Name == pod.Name {
			p.Warnings = warnings
		}
	}
}

// LeaveRemaining gives up on the pods that remain: time is up, and they stay until the node goes.
func (r *Report) LeaveRemaining(reason string) {
	for i := range r.Pods {
		if p := &r.Pods[i]; p.Outcome == Waiting || p.Outcome == StillBlocked {
			p.Outcome, p.Reason = Left, strings.TrimPrefix(p.Reason+"; "+reason, "; ")
		}
	}
}

// ledger keeps the report while the drain runs.
type ledger struct {
	phases []Phase
	pods   map[Ref]*PodReport
}

func newLedger(phases []Phase) *ledger {
	return &ledger{phases: phases, pods: map[Ref]*PodReport{}}
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
			gone = append(gone, ref)
		}
	}
	return gone
}

// enter keeps the verdict of a pod from before it was terminating: that it then is waited for is no news.
func (l *ledger) enter(p Planned) {
	entry, known := l.pods[p.Ref]
	if !known {
		entry = &PodReport{Namespace: p.Namespace, Name: p.Name, UID: p.UID, claims: p.Claims}
		l.pods[p.Ref] = entry
	}
	if known && (p.Verdict == Wait || p.Verdict == entry.Verdict) {
		return
	}
	entry.Phase, entry.Verdict, entry.Reason = l.phases[p.Phase].Name, p.Verdict, p.Reason
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
		entry.Outcome = entry.outcome()
		report.Pods = append(report.Pods, *entry)
	}
	slices.SortFunc(report.Pods, func(a, b PodReport) int {
		return cmp.Or(cmp.Compare(order[a.Phase], order[b.Phase]), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return report
}

func (p *PodReport) outcome() Outcome {
	switch {
	case p.Verdict == Leave:
		return Left
	case !p.GoneAt.IsZero():
		return Evicted
	case p.EvictedAt.IsZero() && len(p.BlockedBy) > 0:
		return StillBlocked
	}
	return Waiting
}

// accept notes that the pod's eviction was accepted, and tells whether that is news.
func (p *PodReport) accept(now time.Time) bool {
	p.because("")
	if !p.EvictedAt.IsZero() {
		return false
	}
	p.EvictedAt = now
	return true
}

func (p *PodReport) block(b *Blocked) {
	p.because(b.Error())
	for _, budget := range b.Budgets {
		if !slices.Contains(p.BlockedBy, budget) {
			p.BlockedBy = append(p.BlockedBy, budget)
		}
	}
}

// because notes what keeps the pod, empty if nothing does. An answer can come after the watch has shown that the pod is to be
// left: the verdict's own reason stands then.
func (p *PodReport) because(reason string) {
	if p.Verdict != Leave {
		p.Reason = reason
	}
}
