package drain

import (
	"context"
	"time"
)

// EscortedLabel is on a pod to which an escort has done something that outlives the escort: the strategy is its value. An
// annotation of the same key says what was changed. A later slice finishes or undoes it.
const EscortedLabel = "quiesce/escorted"

// EvictOptions is what an escort may ask of an eviction.
type EvictOptions struct {
	DryRun bool          // only ask whether it would be allowed
	Grace  time.Duration // the pod's grace period; zero: its own
}

// Escort sees a pod out.
type Escort interface {
	// Escort readies the pod, calls evict at the moment that cuts nothing, and returns when the pod can be left to stop by
	// itself; what evict answers, it returns. If it cannot finish, it undoes what it did, on a fresh context, before it returns.
	// A pod that is terminating already is one whose escort crashed: what can still be done for it is done.
	Escort(ctx context.Context, p Pod, evict func(context.Context, EvictOptions) error) (Escorted, error)
	// Release undoes what an escort left on a pod that stays after all.
	Release(ctx context.Context, p Pod) error
}

// Escorted is what a report says of an escort.
type Escorted struct {
	Strategy     string  `json:"strategy"`               // what was done; plain: no more than an eviction
	Version      string  `json:"version,omitempty"`      // of what was escorted
	Reason       string  `json:"reason,omitempty"`       // why this strategy, or why no better one
	Clients      int     `json:"clients,omitempty"`      // connected when it began
	Transactions int     `json:"transactions,omitempty"` // in flight when it began
	HeldBack     float64 `json:"heldBack,omitempty"`     // for how long new transactions had to wait, in seconds
	Cut          string  `json:"cut,omitempty"`          // what was cut, in words; empty: nothing
}
