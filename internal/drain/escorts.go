package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// shutDownReserve is the end of the time for ShutDownDaemons, which escorts do not get: a request or two then ends a pooler whose
// transactions are longer. More would be taken from those transactions.
const shutDownReserve = 2 * time.Second

// HasEscorts reports whether any phase has an escort.
func (d Drainer) HasEscorts() bool {
	return slices.ContainsFunc(d.Phases, func(p Phase) bool { return p.Escort != nil })
}

// MayDelayCordon reports whether a pod can keep a node from being cordoned.
func (d Drainer) MayDelayCordon() bool {
	return slices.ContainsFunc(d.escortedPhases(), func(p Phase) bool { return p.DelaysCordon != nil })
}

// Advise adds to the report what the escorts advise about their pods.
func (d Drainer) Advise(ctx context.Context, report *Report, pods []Pod, node Node) {
	for _, pod := range d.escorted(pods, node) {
		if pod.Mirror || pod.Finished {
			continue
		}
		var warnings []string
		if err := d.guard("Advise", pod.Ref, func() { warnings = d.Phases[pod.Phase].Escort.Advise(ctx, pod.Pod) }); err != nil {
			warnings = []string{err.Error()}
		}
		warnings = shortAll(warnings)
		report.amend(pod.Ref, func(p *PodReport) { p.Warnings = warnings })
	}
}

// UndoEscorts undoes what escorts changed on pods that stay after all.
func (d Drainer) UndoEscorts(ctx context.Context, pods []Pod, node Node) error {
	var errs []error
	for _, pod := range d.escorted(pods, node) {
		if request := d.request(pod); request.Recorded {
			errs = append(errs, d.undo(ctx, d.Phases[pod.Phase].Escort, request))
		}
	}
	return errors.Join(errs...)
}

// ShutDownDaemons stops the escorts' pods that DaemonSets run on the node, in parallel, and notes that in the report. No other work on
// the node's pods follows it, whether or not the node is empty.
func (d Drainer) ShutDownDaemons(ctx context.Context, pods []Pod, node Node, report *Report) {
	var group sync.WaitGroup
	var mutex sync.Mutex
	for _, pod := range d.daemons(pods, node) {
		group.Go(func() {
			result := d.shutDown(ctx, pod)
			mutex.Lock()
			defer mutex.Unlock()
			report.amend(pod.Ref, func(p *PodReport) { p.Escort = &result })
		})
	}
	group.Wait()
}

// HasDaemons reports whether ShutDownDaemons has something to stop on the node.
func (d Drainer) HasDaemons(pods []Pod, node Node) bool { return len(d.daemons(pods, node)) > 0 }

// daemons returns the pods that ShutDownDaemons stops.
func (d Drainer) daemons(pods []Pod, node Node) []Planned {
	if d.Effort >= EffortNoEscorts {
		return nil
	}
	return slices.DeleteFunc(d.escorted(pods, node), func(p Planned) bool {
		return p.Controller != "DaemonSet" || optedOut(p.Pod, node) || p.Finished
	})
}

func (d Drainer) shutDown(ctx context.Context, pod Planned) EscortResult {
	request := d.request(pod)
	if end, limited := ctx.Deadline(); limited {
		request.EvictBy = end.Add(-min(shutDownReserve, time.Until(end)/2))
	}
	var result EscortResult
	var err error
	if panicked := d.guard("ShutDown", pod.Ref, func() { result, err = d.Phases[pod.Phase].Escort.ShutDown(ctx, request) }); panicked != nil {
		result, err = EscortResult{Strategy: "plain", Reason: panicked.Error()}, panicked
	}
	result.shorten()
	if err != nil {
		d.Log.Warn("failed to stop DaemonSet pod", "pod", pod.String(), "error", err.Error())
		return result
	}
	d.Log.Info("DaemonSet pod stopped", "pod", pod.String(), "strategy", result.Strategy)
	return result
}

// escorted returns the pods whose phase has an escort, whatever their verdict.
func (d Drainer) escorted(pods []Pod, node Node) []Planned {
	return slices.DeleteFunc(d.firstPlan(pods, node).Pods, func(p Planned) bool { return d.Phases[p.Phase].Escort == nil })
}

// request returns what the pod's escort is asked to do. Evict is left to the caller.
func (d Drainer) request(p Planned) EscortRequest {
	r, recorded := d.recordOf(p.Ref)
	onlyCopy := r.OnlyCopy || d.Records == nil && d.EarlierOnlyCopy != nil && d.EarlierOnlyCopy(p.UID)
	return EscortRequest{
		Pod: p.Pod, MaxWait: d.Limits.MaxWait, Record: r.Escort, Recorded: recorded, OnlyCopy: onlyCopy,
		Save: d.save(p.Ref, d.Phases[p.Phase].Name), Log: d.Log.With("pod", p.String()),
	}
}

// undoTimeout bounds undoing what an escort changed before it panicked. A pooler that stays paused stops as well, only later.
const undoTimeout = 5 * time.Second

// escortedPhases returns the phases as this drain uses them: without escorts, if it must not run them, or could not record what they
// change. Pods that only their escort may evict are kept to the last moments. Their node is cordoned at once: then their operator may move
// what has to be moved.
func (d Drainer) escortedPhases() []Phase {
	if d.Effort < EffortNoEscorts && d.Records != nil {
		return d.Phases
	}
	phases := slices.Clone(d.Phases)
	for i := range phases {
		p := &phases[i]
		*p = p.withoutEscort()
		p.DelaysCordon = nil
		if p.Keeps && p.MatchLabels != nil {
			p.Match = p.MatchLabels
		}
	}
	return phases
}

// withoutEscort returns the phase as it is for a pod whose escort must not run. A pod that only its escort may evict has a keeper.
func (p Phase) withoutEscort() Phase {
	p.Escort, p.Lead = nil, 0
	if p.Keeps {
		p.Escort = keeper{}
	}
	return p
}

// guard calls an escort, and returns an error if it panics. The stack is logged, and not reported.
func (d Drainer) guard(step string, pod Ref, call func()) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the escort panicked in %s: %s", step, Cut(fmt.Sprint(cause), MaxText/2))
			d.Log.Error("escort panicked", "pod", pod.String(), "step", step, "error", err.Error(), "stack", Stack())
		}
	}()
	call()
	return nil
}

func (d Drainer) undo(ctx context.Context, escort Escort, request EscortRequest) (err error) {
	panicked := d.guard("Undo", request.Ref, func() { err = escort.Undo(ctx, request) })
	return errors.Join(panicked, err)
}

// undoAfterPanic undoes what an escort recorded before it panicked, so that a plain eviction finds the pod as it was. That the pod has the
// only copy of its data stays recorded.
func (d Drainer) undoAfterPanic(ctx context.Context, escort Escort, pod Planned) {
	request := d.request(pod)
	if !request.Recorded {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := d.undo(ctx, escort, request)
	if request.OnlyCopy {
		err = errors.Join(err, request.Save(ctx, request.Record, true))
	}
	if err != nil {
		d.Log.Warn("failed to undo what an escort changed", "pod", pod.String(), "error", Short(err.Error()))
	}
}

// shorten bounds what an escort says of a pod, which may be the pod's own words.
func (e *EscortResult) shorten() {
	for _, text := range []*string{&e.Kind, &e.Strategy, &e.Version, &e.Reason, &e.AbortedDetail} {
		*text = Short(*text)
	}
}

// shortAll bounds texts, and how many there are.
func shortAll(texts []string) []string {
	if len(texts) == 0 {
		return texts
	}
	short := make([]string, 0, min(len(texts), maxNames))
	for _, text := range texts[:min(len(texts), maxNames)] {
		short = append(short, Short(text))
	}
	return short
}
