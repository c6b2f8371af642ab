package drain

import (
	"context"
	"strings"
	"time"
)

// Cluster is what a drain needs of one node.
type Cluster interface {
	Sight
	Requests
}

// Sight is what is seen of the node.
type Sight interface {
	// Pods are the node's pods as last seen by the watch.
	Pods() []Pod
	// Unreachable tells whether nobody hears from the node's kubelet, as last seen by the watch, or there is no such node any more.
	Unreachable() bool
	// Changed receives after pods changed, or a budget that blocked one of them, or whether the node is unreachable. Changes
	// that nobody received yet are one.
	Changed() <-chan struct{}
}

// Requests are what can be asked for about one pod.
type Requests interface {
	// Evict asks the pod to leave. It returns nil if that was accepted or the pod is gone, *Blocked if a disruption budget
	// does not allow it now; anything else is worth another try later.
	Evict(ctx context.Context, p Ref, o EvictOptions) error
	// Delete has the pod stopped within this grace, whatever its budgets say. It returns nil if that was accepted or the pod is
	// gone.
	Delete(ctx context.Context, p Ref, grace time.Duration) error
}

// EvictOptions is what may be asked of an eviction beyond the eviction itself.
type EvictOptions struct {
	DryRun bool          // only ask whether it would be allowed
	Grace  time.Duration // the pod's grace period; zero: its own
}

// Blocked is the answer to an eviction that disruption budgets do not allow now.
type Blocked struct {
	PDBs   []string // namespace/name
	Reason string
}

func (b *Blocked) Error() string {
	if len(b.PDBs) == 0 {
		return "blocked: " + b.Reason
	}
	return "blocked by " + strings.Join(b.PDBs, ", ") + ": " + b.Reason
}

// Throttled is the answer of a server that has too much to do. It says nothing of the pod.
type Throttled struct {
	After time.Duration // when the server wants to be asked again; zero: it did not say
}

func (t *Throttled) Error() string { return "throttled by the API server" }
