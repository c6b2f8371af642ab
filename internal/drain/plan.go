package drain

import (
	"cmp"
	"slices"
	"time"
)

// Phase is one step of the drain order.
type Phase struct {
	Name  string
	Match func(Pod) bool // a pod belongs to the first phase that matches it; nil: to this one if none matches
	// MatchLabels is Match for a drain that runs no escort, because something on the node ends the function. It reads no more than labels;
	// nil: Match is used then too.
	MatchLabels func(Pod) bool

	Escort  Escort        // gets the phase's pods off the node; nil: they are evicted without one
	Lead    time.Duration // the longest time from the escort's start to its eviction
	Settle  time.Duration // pause after the phase, if it had pods
	Timeout time.Duration // after it the phase no longer holds back the next; zero: it always does
	// Keeps reports that only the escort tells the phase's pods to stop. The drain itself neither evicts nor deletes them, and leaves
	// them their grace period. Where the escort does not run, the drain keeps them to the last moments.
	Keeps bool
	// DelaysCordon reports whether the node is not cordoned while it has this pod, because an operator would answer the cordon; nil: none
	// does. A pod whose eviction a PDB refuses delays no longer.
	DelaysCordon func(Pod) bool
}

// Clock holds the times of a phase. The drain carries it from plan to plan.
type Clock struct {
	Began   time.Time `json:"began"`            // when the phase first had pods and was open
	Emptied time.Time `json:"emptied,omitzero"` // when its last pod was seen to be gone; zero while it has any
}

// View is the input of a plan.
type View struct {
	Now    time.Time
	Node   Node
	Pods   []Pod
	Phases []Phase
	Clocks []Clock // one per phase
	Limits Limits
	Ask    Ask
	// RecordedPhases are the names of the phases in which records keep their pods, by pod UID.
	RecordedPhases map[string]string

	exceptions map[string]exception // by pod UID
	held       map[string]bool      // by pod UID: its escort holds it
}

// Plan says which pods may be acted on now.
type Plan struct {
	Pods   []Planned // every pod, in the drain order
	Clocks []Clock   // for the next plan
	Wake   time.Time // when time alone changes the plan; zero: never
}

// Planned is one pod of a plan.
type Planned struct {
	Pod
	Decision
	Phase   int       // index of its phase
	Open    bool      // it may be acted on now: its phase is open, or its time is short
	ForceAt time.Time // when it is deleted unless it is terminating; zero: never
	Due     bool      // ForceAt has come

	need                  time.Duration // how long before the deadline it must be told to stop, or asked for
	cameBack, unstoppable bool          // why it is skipped

	shorten bool // it is terminating, and its grace period outlasts the deadline
}

// Done reports whether nothing is left to evict or to wait for.
func (p Plan) Done() bool {
	return !slices.ContainsFunc(p.Pods, func(pod Planned) bool { return pod.Verdict != Skip })
}

// Make makes a plan. It is pure: it knows only the view, and decides only what is in the plan.
func Make(v View) Plan {
	plan := Plan{Pods: v.planned(), Clocks: slices.Clone(v.Clocks)}
	plan.Wake = Earliest(v.Limits.apply(plan.Pods, v.Ask, v.Now), v.keptUntil())
	counts := plan.wanted(len(v.Phases))
	open := true
	for i, phase := range v.Phases {
		if open {
			plan.open(i)
		}
		plan.Clocks[i] = plan.Clocks[i].tick(v.Now, counts[i] > 0, plan.isOpen(i))
		passed, wake := plan.Clocks[i].passed(phase, v.Limits, v.Now)
		plan.Wake = Earliest(plan.Wake, wake)
		open = open && (passed || counts[i] > 0 && v.holdsAll(plan, i))
	}
	return plan
}

func (v View) planned() []Planned {
	planned := make([]Planned, len(v.Pods))
	for i, pod := range v.Pods {
		phase := v.phaseOf(pod)
		planned[i] = Planned{
			Pod: pod, Decision: v.decide(pod), Phase: phase, need: v.Limits.need(pod.Grace, v.Limits.bound(v.Phases[phase].Lead)),
		}
		if why, excepted := v.exceptions[pod.UID]; excepted && planned[i].Verdict == Skip {
			planned[i].cameBack, planned[i].unstoppable = why.cameBack, !why.cameBack
		}
		if planned[i].Verdict == Wait && v.Limits.outlasts(pod) && !v.Phases[phase].Keeps {
			planned[i].shorten, planned[i].need = true, v.Limits.need(min(pod.Grace, shortenNeed), 0)
		}
	}
	slices.SortFunc(planned, func(a, b Planned) int {
		return cmp.Or(cmp.Compare(a.Phase, b.Phase), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return planned
}

// phaseOf returns the phase that the record names; else the first that matches; else the one without a match.
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

// wanted counts, by phase, the pods that must be gone before the next phase may start. Held pods do not count: they stay to the end.
func (p Plan) wanted(phases int) []int {
	counts := make([]int, phases)
	for _, pod := range p.Pods {
		if pod.Verdict == Evict || pod.Verdict == Wait {
			counts[pod.Phase]++
		}
	}
	return counts
}

// holdsAll reports whether escorts hold all of the phase's pods that should go. Then the next phase does not wait for them.
func (v View) holdsAll(plan Plan, phase int) bool {
	return !slices.ContainsFunc(plan.Pods, func(p Planned) bool {
		return p.Phase == phase && (p.Verdict == Evict || p.Verdict == Wait) && !v.held[p.UID]
	})
}

func (p Plan) open(phase int) {
	for i := range p.Pods {
		p.Pods[i].Open = p.Pods[i].Open || p.Pods[i].Phase == phase
	}
}

// isOpen reports whether any pod of the phase may be acted on.
func (p Plan) isOpen(phase int) bool {
	return slices.ContainsFunc(p.Pods, func(pod Planned) bool { return pod.Phase == phase && pod.Open })
}

// tick moves a phase's clock. The phase starts when it is open and has pods, and is complete when it then has none.
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

// passed reports whether the next phase may start, and if not, when time alone lets it.
func (c Clock) passed(p Phase, limits Limits, now time.Time) (passed bool, wake time.Time) {
	switch {
	case c.Began.IsZero():
		return true, time.Time{}
	case !c.Emptied.IsZero():
		return reached(c.Emptied.Add(p.Settle), now)
	case limits.bound(p.Timeout) > 0:
		return reached(c.Began.Add(limits.bound(p.Timeout)), now)
	}
	return false, time.Time{}
}
