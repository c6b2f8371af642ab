package drain

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// EscortLabel is on a pod on which an escort changed something that outlives the escort. Its value is the strategy. It only informs
// people: what was changed is in Records.
const EscortLabel = "quiesce/escort-state"

// Escort gets one kind of pod off a node without loss.
type Escort interface {
	// Run readies the pod, evicts it at a moment that aborts nothing, and returns when the pod can stop by itself. It returns the
	// eviction's error as it is. If it cannot finish, it undoes what it changed, on a fresh context. The escort of a terminating pod
	// crashed: Run does what can still be done.
	Run(ctx context.Context, r EscortRequest) (EscortResult, error)
	// ShutDown stops, by EvictBy, a pod that is not evicted: a DaemonSet's. It is the last that is done to the node's pods.
	ShutDown(ctx context.Context, r EscortRequest) (EscortResult, error)
	// Undo undoes what an escort changed on a pod that stays after all.
	Undo(ctx context.Context, r EscortRequest) error
	// Advise returns warnings: what about the pod would make its eviction worse than need be. It changes nothing.
	Advise(ctx context.Context, p Pod) []string
}

// EscortRequest is one pod to escort, the time for it, and what the drain does on behalf of the escort.
type EscortRequest struct {
	Pod
	EvictBy time.Time       // when Run must have evicted the pod; zero: no limit
	MaxWait time.Duration   // Run takes no longer, and waits for no replacement; zero: as long as the escort is configured to
	Record  json.RawMessage // what an earlier escort recorded of the pod
	// Recorded reports whether there is a record, though Record may be empty: one that could not be read.
	Recorded bool
	// Save replaces the record; nil removes it. The escort saves before it changes anything that outlives it.
	Save func(ctx context.Context, record json.RawMessage) error
	// Log has the drain's keys: instance, group, node and pod.
	Log *slog.Logger
	// Evict evicts the pod.
	Evict func(ctx context.Context, o EvictOptions) error
}

// EscortResult is what a report says of an escort.
type EscortResult struct {
	Kind                string  `json:"kind,omitempty"`                // of the escort: pgbouncer
	Strategy            string  `json:"strategy"`                      // what was done; plain: no more than an eviction
	Version             string  `json:"version,omitempty"`             // of what runs in the pod
	Reason              string  `json:"reason,omitempty"`              // why this strategy, or why no better one
	Clients             int     `json:"clients,omitempty"`             // connected when it began
	Transactions        int     `json:"transactions,omitempty"`        // in flight when it began
	HeldBackSeconds     float64 `json:"heldBackSeconds,omitempty"`     // how long new transactions had to wait
	AbortedDetail       string  `json:"abortedDetail,omitempty"`       // what was aborted, in words; empty: nothing
	AbortedTransactions int     `json:"abortedTransactions,omitempty"` // how many: transactions, or sessions that may have been in one
}

// request returns what the pod's escort is asked to do. Evict is left to the caller.
func (d Drainer) request(p Planned) EscortRequest {
	r, recorded := d.recordOf(p.Ref)
	return EscortRequest{
		Pod: p.Pod, MaxWait: d.Limits.MaxWait, Record: r.Escort, Recorded: recorded, Save: d.save(p.Ref, d.Phases[p.Phase].Name),
		Log: d.Log.With("pod", p.String()),
	}
}

// escort runs the pod's escort. The eviction that it asks for is recorded when it is accepted: the escort may have much to do after
// it. Once the pod's moment has come, that eviction is not refused any more.
func (r *run) escort(ctx context.Context, escort Escort, pod Planned, a *ask) {
	ctx, asked, end := r.hurry(ctx, a.leaveBy)
	defer end()
	request := r.request(pod)
	request.EvictBy = a.leaveBy
	request.Evict = func(ctx context.Context, o EvictOptions) error {
		if pod.Terminating() {
			return nil // no pod is signalled twice
		}
		got := answer{pod: pod.Ref, underWay: true}
		if a.due.Load() {
			got = r.insist(ctx, pod.Pod, o)
		} else {
			got.err = r.cluster.Evict(ctx, pod.Ref, o)
		}
		if got.err == nil && !o.DryRun {
			asked()
			r.answers <- got
		}
		return got.err
	}
	escorted, err := escort.Run(ctx, request)
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
	request := d.request(pod)
	if end, limited := ctx.Deadline(); limited {
		request.EvictBy = end.Add(-min(farewellReserve, time.Until(end)/2))
	}
	escorted, err := d.Phases[pod.Phase].Escort.ShutDown(ctx, request)
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
		if request := d.request(pod); d.Phases[pod.Phase].Escort != nil && request.Recorded {
			faults = append(faults, d.Phases[pod.Phase].Escort.Undo(ctx, request))
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
