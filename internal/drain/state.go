package drain

import (
	"cmp"
	"slices"
	"time"
)

// State is what Resume needs of the drain before it: the times of the phases, and the progress of each pod. The zero State is that of
// a drain that never ran.
type State struct {
	clocks []Clock
	pods   map[Ref]*progress
}

// resume returns the state with which a drain starts that continues this one. What was requested is not kept: the limits may differ.
func (s State) resume(phases []Phase) State {
	next := State{clocks: make([]Clock, len(phases)), pods: make(map[Ref]*progress, len(s.pods))}
	copy(next.clocks, s.clocks)
	for ref, p := range s.pods {
		next.pods[ref] = &progress{line: p.line, grace: p.grace, claims: p.claims, ending: p.ending, reasons: p.reasons, requests: newRequests()}
	}
	return next
}

// Claims returns the PersistentVolumeClaims, as namespace/name, of the pods that are gone.
func (s State) Claims() []string {
	var claims []string
	for _, p := range s.pods {
		if p.line.GoneAt.IsZero() {
			continue
		}
		for _, claim := range p.claims {
			claims = append(claims, p.line.Namespace+"/"+claim)
		}
	}
	slices.Sort(claims)
	return claims
}

// observe notes what a plan shows of each pod, and returns the pods that were there before and are gone.
func (s State) observe(plan Plan, phases []Phase, now time.Time) (gone []Ref) {
	present := make(map[Ref]bool, len(plan.Pods))
	for _, pod := range plan.Pods {
		present[pod.Ref] = true
		p, known := s.pods[pod.Ref]
		if !known {
			p = newProgress(pod)
			s.pods[pod.Ref] = p
		}
		p.observe(pod, phases[pod.Phase].Name, known)
	}
	for ref, p := range s.pods {
		if !present[ref] && p.line.GoneAt.IsZero() {
			p.line.GoneAt = now
			p.confirmDeletion(now)
			gone = append(gone, ref)
		}
	}
	return gone
}

// report returns the report. Its pods are in the drain order.
func (s State) report(phases []Phase) Report {
	report := Report{Phases: []PhaseReport{}, Pods: make([]PodReport, 0, len(s.pods))}
	order := map[string]int{}
	for i, phase := range phases {
		order[phase.Name] = i
		if clock := s.clocks[i]; !clock.Began.IsZero() {
			report.Phases = append(report.Phases, PhaseReport{phase.Name, clock.Began, clock.Emptied})
		}
	}
	for _, p := range s.pods {
		line := p.line
		line.Outcome, line.Reason = p.outcome(), p.reason()
		line.BlockedBy = slices.Clone(line.BlockedBy)
		report.Pods = append(report.Pods, line)
	}
	slices.SortFunc(report.Pods, func(a, b PodReport) int {
		return cmp.Or(cmp.Compare(order[a.Phase], order[b.Phase]), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return report
}
