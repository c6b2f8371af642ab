package drain

import (
	"context"
	"strings"
	"time"
)

// Cluster is one node as a drain uses it: it watches the node and requests evictions.
type Cluster interface {
	// Pods returns the node's pods as last seen by the watch. Of the finished ones it names a few.
	Pods() []Pod
	// FinishedPods returns how many finished pods are on the node.
	FinishedPods() int
	// Node returns the node as last seen by the watch.
	Node() NodeState
	// Changed receives after a change of pods, of a PDB that blocked one of them, or of NodeState. Changes that were not received
	// yet count as one.
	Changed() <-chan struct{}
	// Evict requests the pod's eviction. It returns nil if that was accepted or the pod is gone, *Blocked if a PDB does not allow
	// it now, *Refused if an admission webhook denies it, and *Throttled if the server is overloaded: then the whole drain slows down.
	// After any other error another try may succeed.
	Evict(ctx context.Context, p Ref, o EvictOptions) error
	// Delete deletes the pod with this grace period, whatever its PDBs say. Of a terminating pod it shortens the grace period. It
	// returns nil if that was accepted or the pod is gone, and *Refused and *Throttled as Evict does.
	Delete(ctx context.Context, p Ref, grace time.Duration) error
}

// NodeState is what a watch sees of the node.
type NodeState struct {
	Unreachable bool // its kubelet no longer reports, or the node does not exist any more
	Uncordoned  bool // it is schedulable: someone opened it, or it could not be cordoned
	Replaced    bool // another object has its name, or its instance is another one: it is not our node any more
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
	Never  bool // no change of pods makes room: a person must change something
	First  *PDB // the first of them as last seen; nil: it is not known

	Unasked bool // this follows from earlier answers: the server was not asked
}

func (b *Blocked) Error() string {
	if len(b.PDBs) == 0 {
		return "blocked: " + b.Reason
	}
	return "blocked by " + strings.Join(b.PDBs, ", ") + ": " + b.Reason
}

// Refused is the error of a request that an admission webhook or policy denies. It says nothing about other pods.
type Refused struct{ Reason string }

func (r *Refused) Error() string { return "refused: " + r.Reason }

// Throttled is the error of an overloaded API server. It says nothing about the pod.
type Throttled struct {
	After time.Duration // the server's Retry-After; zero: it sent none
}

func (t *Throttled) Error() string { return "throttled by the API server" }
