package drain

import (
	"context"
	"strings"
	"time"
)

// Cluster is what a drain needs of one node.
type Cluster interface {
	// Pods are the node's pods as last seen by the watch.
	Pods() []Pod
	// Changed receives after pods changed, or a budget that blocked one of them. Changes that nobody received yet are one.
	Changed() <-chan struct{}
	// Evict asks the pod to leave. It returns nil if that was accepted or the pod is gone, *Blocked if a disruption budget
	// does not allow it now; anything else is worth another try later.
	Evict(ctx context.Context, p Ref, o EvictOptions) error
}

// EvictOptions is what may be asked of an eviction beyond the eviction itself.
type EvictOptions struct {
	DryRun bool          // only ask whether it would be allowed
	Grace  time.Duration // the pod's grace period; zero: its own
}

// Blocked is the answer to an eviction that disruption budgets do not allow now.
type Blocked struct {
	Budgets []string // namespace/name
	Reason  string
}

func (b *Blocked) Error() string {
	if len(b.Budgets) == 0 {
		return "blocked: " + b.Reason
	}
	return "blocked by " + strings.Join(b.Budgets, ", ") + ": " + b.Reason
}

// Throttled is the answer of a server that has too much to do. It says nothing of the pod.
type Throttled struct {
	After time.Duration // when the server wants to be asked again; zero: it did not say
}

func (t *Throttled) Error() string { return "throttled by the API server" }
