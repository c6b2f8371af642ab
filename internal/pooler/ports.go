package pooler

import (
	"context"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Kubernetes is the cluster as an escort sees it.
type Kubernetes interface {
	escort.Inspector
	escort.TurnTaker
	escort.Forwarder
	// PatchLabels changes labels of exactly this pod. A nil value removes a label.
	PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error
	// Selectors returns the objects that select the pod.
	Selectors(ctx context.Context, p escort.Pod) (escort.Selectors, error)
	// Serving reports whether any Service still sends new connections to the pod.
	Serving(ctx context.Context, ref drain.Ref) (bool, error)
}
