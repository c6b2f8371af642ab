package drain

import (
	"cmp"
	"slices"
	"time"
)

// Phase is one step of the order of leaving.
type Phase struct {
	Name    string
	Match   func(Pod) bool // the first phase that matches a pod has it; nil: this one takes the unmatched
	Escort  Escort         // sees its pods out; nil: they are evicted as they are
	Lead    time.Duration  // what its escort takes at most before it asks for an eviction
	Settle  time.Duration  // how long to let things be after a phase that had pods
	Timeout time.Duration  // after which it no longer holds back the next phase; zero: it always does
}

// Clock is all that is remembered of a phase from pass to pass.
type Clock struct {
	Began   time.Time // when it was first acted on
	Emptied time.Time // when the last of its pods was seen to be gone; zero while it has any
}

// View is what a pass sees.
type View struct {
	Now    time.Time
	Node   Node
	Pods   []Pod
	Phases []Phase
	Clocks []Clock // one a phase
	Limits Limits
	// RecordedPhases are the names of the phases in which records keep their pods, by pod UID.
	RecordedPhases map[string]string
}

// Plan is what a pass does about it.
type Plan struct {
	Pods   []Planned // every pod, in the order of leaving
	Clocks []Clock   // to be given to the next pass
	Wake   time.Time // when a clock changes the plan though nothing else does; zero: never
}

// Planned is one pod's part in a plan.
type Planned struct {
	Pod
	Decision
	Phase  int       // index of its phase
	Open   bool      // it may be acted on now: its phase is, or its time is short
	Moment time.Time // when it is deleted if it has not begun to leave; zero: never
	Due    bool      // that moment has come

	needs time.Duration // before the deadline
}

// Done tells whether nothing is left that a drain acts on or waits for.
func (p Plan) Done() bool {
	return !slices.ContainsFunc(p.Pods, func(pod Planned) bool { return pod.Verdict != Skip })
}

// Make plans one pass. It is pure: all it knows is in the view, all it decides is in the plan.
func Make(v View) Plan {
	plan := Plan{Pods: v.planned(), Clocks: slices.Clone(v.Clocks)}
	plan.Wake = earliest(v.Limits.apply(plan.Pods, v.Now), v.keptUntil())
	counts := plan.wanted(len(v.Phases))
	open := true
	for i, phase := range v.Phases {
		if open {
			plan.open(i)
		}
		plan.Clocks[i] = plan.Clocks[i].tick(v.Now, counts[i] > 0, plan.isOpen(i))
		passed, wake := plan.Clocks[i].passed(phase, v.Limits, v.Now)
		plan.Wake = earliest(plan.Wake, wake)
		open = open && passed
	}
	return plan
}

func (v View) planned() []Planned {
	planned := make([]Planned, len(v.Pods))
	for i, pod := range v.Pods {
		phase := v.phaseOf(pod)
		planned[i] = Planned{
			Pod: pod, Decision: v.judge(pod), Phase: phase, needs: v.Limits.needs(pod.Grace, v.Limits.bound(v.Phases[phase].Lead)),
		}
	}
	slices.SortFunc(planned, func(a, b Planned) int {
		return cmp.Or(cmp.Compare(a.Phase, b.Phase), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return planned
}

// phaseOf returns the phase that the record names; else the first that matches; else the one that takes the unmatched.
func (v View) phaseOf(p Pod) int {
	if name, recorded := v.RecordedPhases[p.UID]; recorded {
		if i := slices.IndexFunc(v.Phases, func(phase Phase) bool { return phase.Name == name }); i >= 0 {
			return i
		}
	}
	if i := slices.IndexFunc(v.Phases, func(phase Phase) bool { return phase.Match != nil && phase.Match(p) }); i >= 0 {
		return i
	}
	return max(0, slices.IndexFunc(v.Phases, func(phase Phase) bool { return phase.Match == nil }))
}

// wanted counts, by phase, the pods that must be gone before the next phase may begin. Held ones are not among them: they
// stay to the end.
func (p Plan) wanted(phases int) []int {
	counts := make([]int, phases)
	for _, pod := range p.Pods {
		if pod.Verdict == Evict || pod.Verdict == Wait {
			counts[pod.Phase]++
		}
	}
	return counts
}

func (p Plan) open(phase int) {
	for i := range p.Pods {
		p.Pods[i].Open = p.Pods[i].Open || p.Pods[i].Phase == phase
	}
}

// isOpen tells whether any pod of the phase may be acted on.
func (p Plan) isOpen(phase int) bool {
	return slices.ContainsFunc(p.Pods, func(pod Planned) bool { return pod.Phase == phase && pod.Open })
}

// tick moves a phase's clock: it begins when it is open and has pods, and is emptied when, having had some, it has none.
func (c Clock) tick(now time.Time, hasPods, open bool) Clock {
	switch {
	case hasPods && open && c.Began.IsZero():
		return Clock{Began: now}
	case hasPods:
		return Clock{Began: c.Began}
	case !c.Began.IsZero() && c.Emptied.IsZero():
		return Clock{Began: c.Began, Emptied: now}
	}
	return c
}

// passed tells whether the phase lets the next one begin, and if not, when its clock alone would.
func (c Clock) passed(p Phase, limits Limits, now time.Time) (passed bool, wake time.Time) {
	switch {
	case c.Began.IsZero():
		return true, time.Time{}
	case !c.Emptied.IsZero():
		return at(c.Emptied.Add(p.Settle), now)
	case limits.bound(p.Timeout) > 0:
		return at(c.Began.Add(limits.bound(p.Timeout)), now)
	}
	return false, time.Time{}
}

func at(when, now time.Time) (bool, time.Time) {
	if when.After(now) {
		return false, when
	}
	return true, time.Time{}
}

// earliest ignores zero times, which stand for never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
