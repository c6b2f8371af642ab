package pooler

import (
	"context"
	"net"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Kubernetes is what an escort needs of the cluster.
type Kubernetes interface {
	// Inspect returns the pod as it is now; nil: it is gone, or another pod has its name.
	Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error)
	// PatchLabels changes labels of exactly this pod; a nil value removes one.
	PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error
	// Forward connects to a port of the pod over the API server.
	Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error)
	// Selectors returns what selects the pod.
	Selectors(ctx context.Context, p escort.Pod) (escort.Selectors, error)
	// Peers returns the pods of the same owner, the pod itself included; none for a pod without an owner that has a selector.
	Peers(ctx context.Context, p escort.Pod) ([]escort.Peer, error)
	// Serving reports whether any Service still sends new connections to the pod.
	Serving(ctx context.Context, ref drain.Ref) (bool, error)
	// AcquireGroupLease takes the Lease of this name, in the function's own namespace, and renews it until ctx ends or release is
	// called. It reports false if another holds it.
	AcquireGroupLease(ctx context.Context, name string) (release func() error, acquired bool, err error)
}
