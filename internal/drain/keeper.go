package drain

import (
	"context"
	"time"
)

const (
	// keptReason is why a pod stays that only its escort may evict, in a drain that runs none.
	keptReason = "its escort does not run in this drain, so it stays until the last moments, and is then evicted with its whole grace"
	// onlyCopyReason is why it stays even then.
	onlyCopyReason = "its escort does not run in this drain, and has recorded that the pod's data may exist on this node only"
)

// keeper stands in for the escort of a phase that keeps its pods, where that does not run. There is no Lease, or the escort or something on
// the node ends the function. A database's primary that is evicted at once is lost to its clients, and one that is not told to stop is
// killed. So the pod is evicted as late as its grace allows, unless it is recorded to have the only copy of its data. The keeper asks
// nothing of the pod or its cluster, so that it cannot fail.
type keeper struct{}

// Run implements Escort.
func (keeper) Run(ctx context.Context, r EscortRequest) (EscortResult, error) {
	result := EscortResult{Strategy: "plain", Reason: keptReason}
	switch {
	case r.Terminating():
		return result, nil
	case r.OnlyCopy:
		result.Reason = onlyCopyReason
		return result, &Held{Reason: onlyCopyReason, OnlyCopy: true}
	case time.Now().Before(r.EvictBy):
		return result, &Held{Reason: keptReason}
	}
	return result, r.Evict(ctx, EvictOptions{Grace: r.Grace})
}

// ShutDown implements Escort.
func (keeper) ShutDown(context.Context, EscortRequest) (EscortResult, error) {
	return EscortResult{Strategy: "plain"}, nil
}

// Undo implements Escort. There is nothing that it could undo.
func (keeper) Undo(context.Context, EscortRequest) error { return nil }

// Advise implements Escort.
func (keeper) Advise(context.Context, Pod) []string { return nil }
