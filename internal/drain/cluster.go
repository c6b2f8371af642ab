package drain

import (
	"context"
	"strings"
	"time"
)

// Cluster is one node as a drain uses it: it watches the node and requests evictions.
type Cluster interface {
	// Pods returns the node's pods as last seen by the watch.
	Pods() []Pod
	// Unreachable reports whether the node's kubelet no longer reports, as last seen by the watch, or the node does not exist any
	// more.
	Unreachable() bool
	// Changed receives after a change of pods, of a PDB that blocked one of them, or of whether the node is unreachable. Changes
	// that were not received yet count as one.
	Changed() <-chan struct{}
	// Evict requests the pod's eviction. It returns nil if that was accepted or the pod is gone, and *Blocked if a PDB does not
	// allow it now. After any other error another try may succeed.
	Evict(ctx context.Context, p Ref, o EvictOptions) error
	// Delete deletes the pod with this grace period, whatever its PDBs say. It returns nil if that was accepted or the pod is gone.
	Delete(ctx context.Context, p Ref, grace time.Duration) error
}

// EvictOptions are the options of an eviction.
type EvictOptions struct {
	DryRun bool          // only ask whether the eviction would be allowed
	Grace  time.Duration // the pod's grace period; zero: its own
}

// Blocked is the error of an eviction that PDBs do not allow now.
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

// Throttled is the error of an overloaded API server. It says nothing about the pod.
type Throttled struct {
	After time.Duration // the server's Retry-After; zero: it sent none
}

func (t *Throttled) Error() string { return "throttled by the API server" }
