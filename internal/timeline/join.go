// Package timeline draws drains from their reports: one bar per pod, from when it could have left to when it was gone.
package timeline

import (
	"cmp"
	"slices"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// Drain is one drain of one instance. A long drain has one report per invocation; here they are joined.
type Drain struct {
	Report      termination.Report // the latest, with the times of all
	Invocations []time.Time        // when each began
	held        map[drain.Ref][]interval
}

// interval is a time in which clients of a pod waited.
type interval struct{ from, to time.Time }

// Join joins the reports of each drain, in the order in which drains began. An instance that returned to service can be drained again. Join
// leaves out reports of what drains nothing, such as sweeps, and repeated ones. So it does with reports without a start: their pods' times
// have nothing to begin at.
func Join(reports []termination.Report) []Drain {
	reports = slices.DeleteFunc(slices.Clone(reports), func(r termination.Report) bool {
		return r.InstanceID == "" || r.StartedAt.IsZero() || len(r.Pods) == 0 || r.Plan != nil
	})
	slices.SortStableFunc(reports, func(a, b termination.Report) int { return a.StartedAt.Compare(b.StartedAt) })
	var drains []Drain
	for _, r := range reports {
		i := latest(drains, r.InstanceID)
		if i < 0 || drains[i].isOver(r) {
			i, drains = len(drains), append(drains, Drain{held: map[drain.Ref][]interval{}})
		}
		drains[i].add(r)
	}
	return drains
}

// latest returns the index of the latest drain of an instance; negative: there is none.
func latest(drains []Drain, instance string) int {
	i := len(drains) - 1
	for i >= 0 && drains[i].Report.InstanceID != instance {
		i--
	}
	return i
}

// isOver reports whether the drain's lifecycle action was completed before this report, which is no repeated one.
func (d *Drain) isOver(r termination.Report) bool {
	return d.Report.LifecycleResult != "" && !slices.Contains(d.Invocations, r.StartedAt)
}

// add adds a later report.
func (d *Drain) add(r termination.Report) {
	if slices.Contains(d.Invocations, r.StartedAt) {
		return
	}
	before := d.Report
	d.Invocations = append(d.Invocations, r.StartedAt)
	for _, p := range r.Pods {
		d.addHeld(p)
	}
	d.Report = r
	d.Report.StartedAt = drain.Earliest(before.StartedAt, r.StartedAt)
	d.Report.Pods = joinPods(before.Pods, r.Pods)
	d.Report.Phases = joinPhases(before.Phases, r.Phases)
}

func (d *Drain) addHeld(p drain.PodReport) {
	if p.Escort == nil || p.Escort.HeldBackAt.IsZero() {
		return
	}
	from := p.Escort.HeldBackAt
	held := interval{from, from.Add(time.Duration(p.Escort.HeldBackSeconds * float64(time.Second)))}
	if pod := p.Ref(); !slices.Contains(d.held[pod], held) {
		d.held[pod] = append(d.held[pod], held)
	}
}

// joinPods returns the later reports, with what only the earlier ones know.
func joinPods(before, after []drain.PodReport) []drain.PodReport {
	joined := slices.Clone(before)
	for _, p := range after {
		i := slices.IndexFunc(joined, func(known drain.PodReport) bool { return known.Ref() == p.Ref() })
		if i < 0 {
			joined = append(joined, p)
			continue
		}
		known := joined[i]
		p.BlockedAt, p.EvictedAt = drain.Earliest(known.BlockedAt, p.BlockedAt), drain.Earliest(known.EvictedAt, p.EvictedAt)
		p.ForcedAt, p.GoneAt = drain.Earliest(known.ForcedAt, p.ForcedAt), cmp.Or(p.GoneAt, known.GoneAt)
		for _, pdb := range known.BlockedBy {
			if !slices.Contains(p.BlockedBy, pdb) {
				p.BlockedBy = append(slices.Clone(p.BlockedBy), pdb)
			}
		}
		p.Escort = cmp.Or(p.Escort, known.Escort)
		joined[i] = p
	}
	return joined
}

func joinPhases(before, after []drain.PhaseReport) []drain.PhaseReport {
	joined := slices.Clone(before)
	for _, p := range after {
		i := slices.IndexFunc(joined, func(known drain.PhaseReport) bool { return known.Name == p.Name })
		if i < 0 {
			joined = append(joined, p)
			continue
		}
		joined[i].StartedAt, joined[i].FinishedAt = drain.Earliest(joined[i].StartedAt, p.StartedAt), cmp.Or(p.FinishedAt, joined[i].FinishedAt)
	}
	return joined
}
