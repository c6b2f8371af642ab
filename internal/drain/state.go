package drain

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// maxGonePods bounds the pods of a report that are gone. While pods that tolerate everything come and go on the node, their number has no
// bound. Ten thousand take some 10 MB.
const maxGonePods = 10_000

// State is what Resume needs of the drain before it: the times of the phases, and the progress of each pod. The zero State is that of
// a drain that never ran.
type State struct {
	clocks []Clock
	pods   map[Ref]*progress
	times  requestTimes
	began  time.Time // when the first of the drains did
	// asked is, by controller, the pod that came back and was asked to leave; ended are the controllers whose other pods got a last deletion.
	asked     map[string]string
	ended     map[string]bool
	recordons int
	gone      int       // pods that are gone, and in the report
	omitted   int       // pods that are gone, beyond these
	told      int       // events about pods; one more than the most: that was logged
	cordoned  time.Time // when the drains closed the node; zero: they did not
	tainted   bool      // by a taint, not by a cordon
	err       error
}

// resume returns the state with which a drain starts that continues this one. What was requested is not kept: the limits may differ.
func (s State) resume(phases []Phase) State {
	next := State{
		times: s.times, began: s.began, asked: maps.Clone(s.asked), ended: maps.Clone(s.ended), recordons: s.recordons, cordoned: s.cordoned, tainted: s.tainted,
		told: s.told, gone: s.gone, omitted: s.omitted,
		clocks: make([]Clock, len(phases)), pods: make(map[Ref]*progress, len(s.pods)),
	}
	copy(next.clocks, s.clocks)
	if next.asked == nil {
		next.asked, next.ended = map[string]string{}, map[string]bool{}
	}
	for ref, p := range s.pods {
		kept := *p
		kept.requests = newRequests()
		next.pods[ref] = &kept
	}
	return next
}

// observe notes what a plan shows of each pod, and returns the pods that were there before and are gone.
func (s *State) observe(plan Plan, phases []Phase, now time.Time) (gone []Ref) {
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
			p.setGone(now)
			gone = append(gone, ref)
			s.countGone(ref, p)
		}
	}
	return gone
}

// countGone counts a pod that is gone. Of too many, one is left out of the report, unless a request for it is in flight.
func (s *State) countGone(ref Ref, p *progress) {
	if s.gone >= maxGonePods && !p.inFlight {
		s.omitted++
		delete(s.pods, ref)
		return
	}
	s.gone++
}

// report returns the report. Its pods are in the drain order. Of finished pods it names a few.
func (s State) report(phases []Phase) Report {
	report := Report{Recordons: s.recordons, OmittedPods: s.omitted, Phases: []PhaseReport{}, Pods: make([]PodReport, 0, len(s.pods))}
	order := map[string]int{}
	for i, phase := range phases {
		order[phase.Name] = i
		if clock := s.clocks[i]; !clock.Began.IsZero() {
			report.Phases = append(report.Phases, PhaseReport{phase.Name, clock.Began, clock.Emptied})
		}
	}
	var finished []PodReport
	for _, p := range s.pods {
		line := p.line
		line.Outcome, line.Reason = p.outcome(), p.reason()
		line.BlockedBy = slices.Clone(line.BlockedBy)
		if p.finished {
			finished = append(finished, line)
			continue
		}
		report.Pods = append(report.Pods, line)
	}
	inOrder := func(a, b PodReport) int {
		return cmp.Or(cmp.Compare(order[a.Phase], order[b.Phase]), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	}
	slices.SortFunc(finished, inOrder)
	report.Pods = append(report.Pods, finished[:min(len(finished), maxNames)]...)
	slices.SortFunc(report.Pods, inOrder)
	return report
}
