package drain

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

// EscortLabel is on a pod on which an escort changed something that outlives the escort. Its value is the strategy. It only informs
// people: what was changed is in Records.
const EscortLabel = "quiesce/escort-state"

// Escort gets one kind of pod off a node without loss.
type Escort interface {
	// Run prepares the pod, evicts it at a moment that aborts nothing, and returns when the pod can stop by itself. It returns the
	// eviction's error as it is. If it cannot finish, it undoes what it changed, on a fresh context. The escort of a terminating pod
	// crashed: Run does what can still be done.
	Run(ctx context.Context, r EscortRequest) (EscortResult, error)
	// ShutDown stops, by EvictBy, a pod that is not evicted: a DaemonSet's. No other work on the node's pods follows it.
	ShutDown(ctx context.Context, r EscortRequest) (EscortResult, error)
	// Undo undoes what an escort changed on a pod that stays after all.
	Undo(ctx context.Context, r EscortRequest) error
	// Advise returns warnings: what about the pod would make its eviction worse than need be. It changes nothing.
	Advise(ctx context.Context, p Pod) []string
}

// Held is the error of an escort that does not want its pod to be told to stop now. The pod stays; the phases after it do not wait. The
// escort runs again after a while, or when something changes.
type Held struct {
	Reason string
	After  time.Duration // how long the escort must not run again, whatever changes; zero: a few seconds
	// OnlyCopy reports that the pod's data exist on this node and nowhere else. The node must not go as long as that can be put off.
	OnlyCopy bool
}

func (h *Held) Error() string { return "held: " + h.Reason }

// EscortRequest is one pod to escort, the time for it, and what the drain does on behalf of the escort.
type EscortRequest struct {
	Pod
	EvictBy time.Time       // when Run must have evicted the pod; zero: no limit
	MaxWait time.Duration   // Run takes no longer, and waits for no replacement; zero: as long as the escort is configured to
	Record  json.RawMessage // what an earlier escort recorded of the pod
	// Recorded reports whether there is a record, though Record may be empty: one that could not be read.
	Recorded bool
	// OnlyCopy reports that the record says so: the pod's data exist on this node and nowhere else. The pod stays then, even in a drain
	// that runs no escorts.
	OnlyCopy bool
	// Save replaces the record; nil removes it, and onlyCopy with it. The escort saves before it changes anything that outlives it.
	Save func(ctx context.Context, record json.RawMessage, onlyCopy bool) error
	// Log has the drain's keys: instance, group, node and pod.
	Log *slog.Logger
	// Evict evicts the pod.
	Evict func(ctx context.Context, o EvictOptions) error
}

// Switchover is a move of a primary that a person asks for.
type Switchover struct {
	Namespace, Cluster string
	Candidate          string // the member that is to be the primary; empty: the best one
	Rehearse           bool   // everything is done but the request
}

// String returns the cluster as namespace/name.
func (s Switchover) String() string { return s.Namespace + "/" + s.Cluster }

// EscortResult is an escort's part of a report.
type EscortResult struct {
	Kind                string    `json:"kind,omitempty"`                // of the escort: pgbouncer
	Strategy            string    `json:"strategy"`                      // what was done; plain: no more than an eviction
	Version             string    `json:"version,omitempty"`             // of what runs in the pod
	Reason              string    `json:"reason,omitempty"`              // why this strategy, or why no better one
	Clients             int       `json:"clients,omitempty"`             // connected when it began
	Transactions        int       `json:"transactions,omitempty"`        // in flight when it began
	HeldBackAt          time.Time `json:"heldBackAt,omitzero"`           // since when new transactions had to wait
	HeldBackSeconds     float64   `json:"heldBackSeconds,omitempty"`     // how long they had to
	AbortedDetail       string    `json:"abortedDetail,omitempty"`       // what was aborted, in words; empty: nothing
	AbortedTransactions int       `json:"abortedTransactions,omitempty"` // how many: transactions, or sessions that may have been in one
}
