package drain

import (
	"context"
	"errors"
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

// Advise adds to the report what the escorts advise about their pods.
func (d Drainer) Advise(ctx context.Context, report *Report, pods []Pod, node Node) {
	for _, pod := range d.escorted(pods, node) {
		if pod.Mirror || pod.Finished {
			continue
		}
		warnings := d.Phases[pod.Phase].Escort.Advise(ctx, pod.Pod)
		report.amend(pod.Ref, func(p *PodReport) { p.Warnings = warnings })
	}
}

// UndoEscorts undoes what escorts changed on pods that stay after all.
func (d Drainer) UndoEscorts(ctx context.Context, pods []Pod, node Node) error {
	var errs []error
	for _, pod := range d.escorted(pods, node) {
		if request := d.request(pod); request.Recorded {
			errs = append(errs, d.Phases[pod.Phase].Escort.Undo(ctx, request))
		}
	}
	return errors.Join(errs...)
}

// ShutDownDaemons stops the escorts' pods that DaemonSets run on the node, in parallel, and notes that in the report. No other work on
// the node's pods follows it, whether or not the node is empty.
func (d Drainer) ShutDownDaemons(ctx context.Context, pods []Pod, node Node, report *Report) {
	var group sync.WaitGroup
	var mutex sync.Mutex
	for _, pod := range d.escorted(pods, node) {
		if pod.Controller != "DaemonSet" || optedOut(pod.Pod, node) || pod.Finished {
			continue
		}
		group.Go(func() {
			result := d.shutDown(ctx, pod)
			mutex.Lock()
			defer mutex.Unlock()
			report.amend(pod.Ref, func(p *PodReport) { p.Escort = &result })
		})
	}
	group.Wait()
}

func (d Drainer) shutDown(ctx context.Context, pod Planned) EscortResult {
	request := d.request(pod)
	if end, limited := ctx.Deadline(); limited {
		request.EvictBy = end.Add(-min(shutDownReserve, time.Until(end)/2))
	}
	result, err := d.Phases[pod.Phase].Escort.ShutDown(ctx, request)
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
	return EscortRequest{
		Pod: p.Pod, MaxWait: d.Limits.MaxWait, Record: r.Escort, Recorded: recorded, Save: d.save(p.Ref, d.Phases[p.Phase].Name),
		Log: d.Log.With("pod", p.String()),
	}
}
