package drain

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// ErrNodeReplaced ends a drain whose node is another one now: another object has its name, or its instance is another one. State.Err
// returns it. The pods on that node must not be evicted.
var ErrNodeReplaced = errors.New("the node was replaced by another of its name")

const (
	// maxRecordons is how often a node that someone uncordons is cordoned again. Beyond that, a person or a controller
	// insists, and the node would only be filled and emptied in turn.
	maxRecordons = 10
	// recordonTimeout bounds one attempt: a read and a patch, as slow as the API server may be with both.
	recordonTimeout = 20 * time.Second
	// recordonSettle is how long the watch may take to show that the node is cordoned again. Less would cordon it twice.
	recordonSettle = time.Second
	// recordonName tells the jitter of the retries from that of pods.
	recordonName = "recordon"
)

// recordonResult is the result of closing the node again.
type recordonResult struct {
	asked   time.Time
	at      time.Time
	byTaint bool // not by a cordon
	err     error
}

// checkCordon cordons the node if someone uncordoned it, or if it could not be cordoned yet, one attempt at a time. While a pod delays the
// cordon, it taints a node whose first taint failed. It returns when to check again.
func (r *run) checkCordon(ctx context.Context, now time.Time) (wake time.Time) {
	switch {
	case r.recordoning:
		return time.Time{}
	case !r.cluster.Node().Uncordoned:
		r.recordonAt, r.recordonFailures = time.Time{}, 0
		return time.Time{}
	}
	closeNode, byTaint := r.Recordon, r.delaysCordon()
	if byTaint {
		closeNode = r.Taint
	}
	switch {
	case closeNode == nil, byTaint && (r.taintDenied || !r.node.Cordoned.IsZero()), !byTaint && (r.recordonDenied || r.state.recordons >= maxRecordons):
		return time.Time{}
	case now.Before(r.recordonAt):
		return r.recordonAt
	}
	r.recordoning = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, recordonTimeout)
		defer cancel()
		at, err := closeNode(ctx)
		r.recordons <- recordonResult{now, at, byTaint, err}
	}()
	return time.Time{}
}

// delaysCordon reports whether the node has a pod that is not terminating, and during which it is not cordoned. A pod that its escort evicts,
// and whose PDB refuses that, is none: its operator may make room when the node is cordoned. Neither is one whose escort panicked.
func (r *run) delaysCordon() bool {
	pods := r.cluster.Pods()
	plan := Make(View{
		Node: r.node, Pods: pods, Phases: r.Phases, Clocks: make([]Clock, len(r.Phases)), RecordedPhases: r.recordedPhases(pods),
	})
	return slices.ContainsFunc(plan.Pods, func(p Planned) bool {
		delays := r.Phases[p.Phase].DelaysCordon
		known := r.state.pods[p.Ref]
		delaysNoLonger := known != nil && (known.panicked != "" || known.latest == blocked || known.latest == never)
		return delays != nil && !delaysNoLonger && !p.Terminating() && !p.Finished && delays(p.Pod)
	})
}

// handleRecordon notes the result. The pods that came meanwhile came to an open node: they are evicted like those before.
func (r *run) handleRecordon(got recordonResult) {
	now := time.Now()
	r.recordoning = false
	first := r.node.Cordoned.IsZero() || r.node.TaintedOnly
	changed := got.err == nil && (first || got.at.IsZero() || !got.at.Before(got.asked))
	if !changed {
		r.recordonAt = now.Add(backoff(Ref{UID: recordonName}, r.recordonFailures))
		r.recordonFailures++
	}
	switch _, denied := errors.AsType[*Refused](got.err); { // what is denied once is denied again
	case got.err != nil && got.byTaint:
		r.taintDenied = r.taintDenied || denied
		r.Log.Warn("taint of the node failed again", "error", Short(got.err.Error()))
		return
	case got.err != nil:
		r.recordonDenied = r.recordonDenied || denied
		r.Log.Warn("failed to cordon the node again", "error", Short(got.err.Error()))
		return
	case !changed: // the watch lags
		return
	}
	r.node.TaintedOnly, r.state.tainted = got.byTaint, got.byTaint
	r.recordonAt, r.recordonFailures = now.Add(recordonSettle), 0
	r.node.Cordoned = cmp.Or(got.at, now)
	r.state.cordoned = r.node.Cordoned
	r.noteClosed()
	switch {
	case got.byTaint:
		r.Log.Info("node tainted")
		return
	case first:
		r.Log.Info("node cordoned")
		return
	}
	r.state.recordons++
	r.Log.Warn("node uncordoned by someone, cordoned again", "times", r.state.recordons)
}

// Err returns why the drain ended, if that is not that it was over or its context ended: ErrNodeReplaced, or nil.
func (s State) Err() error { return s.err }
