package pooler

import (
	"context"
	"net"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Kubernetes is the cluster as an escort sees it.
type Kubernetes interface {
	escort.Inspector
	escort.TurnTaker
	// PatchLabels changes labels of exactly this pod. A nil value removes a label.
	PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error
	// Forward connects to a port of the pod through the API server.
	Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error)
	// Selectors returns the objects that select the pod.
	Selectors(ctx context.Context, p escort.Pod) (escort.Selectors, error)
	// Serving reports whether any Service still sends new connections to the pod.
	Serving(ctx context.Context, ref drain.Ref) (bool, error)
}
