package drain

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// EscortLabel is on a pod to which an escort has done something that outlives the escort: the strategy is its value. An
// annotation of the same key says what was changed. A later slice finishes or undoes it.
const EscortLabel = "quiesce/escorted"

// Escort sees pods out.
type Escort interface {
	// Run readies the pod, calls evict at the moment that cuts nothing, and returns when the pod can be left to stop by
	// itself; what evict answers, it returns. If it cannot finish, it undoes what it did, on a fresh context, before it returns.
	// A pod that is terminating already is one whose escort crashed: what can still be done for it is done.
	Run(ctx context.Context, p Pod, evict func(context.Context, EvictOptions) error) (EscortResult, error)
	// ShutDown has a pod that is not evicted, a DaemonSet's, stop what it does, by its LeaveBy. It is the last that happens to the
	// node's pods.
	ShutDown(ctx context.Context, p Pod) (EscortResult, error)
	// Undo undoes what an escort left on a pod that stays after all.
	Undo(ctx context.Context, p Pod) error
	// Advise says what about the pod would make its leaving worse than need be. It changes nothing.
	Advise(ctx context.Context, p Pod) []string
}

// EscortResult is what a report says of an escort.
type EscortResult struct {
	Strategy            string  `json:"strategy"`               // what was done; plain: no more than an eviction
	Version             string  `json:"version,omitempty"`      // of what was escorted
	Reason              string  `json:"reason,omitempty"`       // why this strategy, or why no better one
	Clients             int     `json:"clients,omitempty"`      // connected when it began
	Transactions        int     `json:"transactions,omitempty"` // in flight when it began
	HeldBackSeconds     float64 `json:"heldBack,omitempty"`     // for how long new transactions had to wait, in seconds
	AbortedDetail       string  `json:"cut,omitempty"`          // what was cut, in words; empty: nothing
	AbortedTransactions int     `json:"lost,omitempty"`         // how much that was: transactions, or sessions that may have been in one
}

// escort starts seeing the pod out. The eviction that the escort asks for goes into the books when it is accepted: the escort
// may have much to do after it. Once the pod's moment has come, that eviction is not refused any more.
func (r *run) escort(ctx context.Context, escort Escort, pod Pod, a *ask) {
	ctx, asked, end := r.hurry(ctx, a.leaveBy)
	defer end()
	pod.EvictBy = a.leaveBy
	evict := func(ctx context.Context, o EvictOptions) error {
		if pod.Terminating() {
			return nil // nobody is signalled twice
		}
		got := answer{pod: pod.Ref, underWay: true}
		if a.due.Load() {
			got = r.insist(ctx, pod, o)
		} else {
			got.err = r.cluster.Evict(ctx, pod.Ref, o)
		}
		if got.err == nil && !o.DryRun {
			asked()
			r.answers <- got
		}
		return got.err
	}
	escorted, err := escort.Run(ctx, pod, evict)
	r.answers <- answer{pod: pod.Ref, err: err, escorted: &escorted}
}

// farewellReserve is kept of the time for farewells: a pooler whose transactions outlast them is ended with it, which takes a
// request or two. More would be taken from those transactions.
const farewellReserve = 2 * time.Second

// ShutDownDaemons has the escorts stop what DaemonSets run on the node, side by side, and enters it into the report. It is the last that is
// done to the pods of a node that is let go, empty or not.
func (d Drainer) ShutDownDaemons(ctx context.Context, pods []Pod, node Node, report *Report) {
	var group sync.WaitGroup
	var books sync.Mutex
	for _, pod := range d.first(pods, node).Pods {
		if d.Phases[pod.Phase].Escort == nil || pod.Controller != "DaemonSet" || optedOut(pod.Pod, node) || pod.Finished {
			continue
		}
		group.Go(func() {
			escorted := d.farewell(ctx, pod)
			books.Lock()
			defer books.Unlock()
			report.amend(pod.Ref, func(p *PodReport) { p.Escort = &escorted })
		})
	}
	group.Wait()
}

func (d Drainer) farewell(ctx context.Context, pod Planned) EscortResult {
	if end, limited := ctx.Deadline(); limited {
		pod.EvictBy = end.Add(-min(farewellReserve, time.Until(end)/2))
	}
	escorted, err := d.Phases[pod.Phase].Escort.ShutDown(ctx, pod.Pod)
	if err != nil {
		d.Log.Warn("a DaemonSet's pod was not stopped", "pod", pod.String(), "error", err.Error())
		return escorted
	}
	d.Log.Info("a DaemonSet's pod was stopped", "pod", pod.String(), "strategy", escorted.Strategy)
	return escorted
}

// HasEscorts tells whether any phase has one.
func (d Drainer) HasEscorts() bool {
	return slices.ContainsFunc(d.Phases, func(p Phase) bool { return p.Escort != nil })
}

// UndoEscorts has the escorts undo what they left on pods that stay after all.
func (d Drainer) UndoEscorts(ctx context.Context, pods []Pod, node Node) error {
	var faults []error
	for _, pod := range d.first(pods, node).Pods {
		if escort := d.Phases[pod.Phase].Escort; escort != nil && pod.escorted() {
			faults = append(faults, escort.Undo(ctx, pod.Pod))
		}
	}
	return errors.Join(faults...)
}

// Advise has the escorts say what is wrong with the pods that they would see out, by pod.
func (d Drainer) Advise(ctx context.Context, report *Report, pods []Pod, node Node) {
	for _, pod := range d.first(pods, node).Pods {
		if escort := d.Phases[pod.Phase].Escort; escort != nil && !pod.Mirror && !pod.Finished {
			warnings := escort.Advise(ctx, pod.Pod)
			report.amend(pod.Ref, func(p *PodReport) { p.Warnings = warnings })
		}
	}
}
