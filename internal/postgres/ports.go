package postgres

import (
	"context"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Clusters is where facts come from. Observer implements it over Kubernetes.
type Clusters interface {
	// Facts returns what is known of the cluster, without any live state.
	Facts(ctx context.Context, i Identity) (Facts, error)
	// Live asks the member itself.
	Live(ctx context.Context, i Identity, m Member) (LiveState, error)
	// Unattachable returns why no other node can take the member's volumes; empty: one can.
	Unattachable(ctx context.Context, m Member) (why string, err error)
	// Disk returns why the member's data do not follow it to another node; empty: they do.
	Disk(ctx context.Context, m Member) (why string)
}

// Kubernetes is the cluster as facts need it. kube.Client implements it. Types are those of package escort: kube knows no database.
// Errors are escort.ErrForbidden where a permission is missing.
type Kubernetes interface {
	// Annotated returns an object of the kind endpoints or configmaps, without its data; nil: it does not exist.
	Annotated(ctx context.Context, kind, namespace, name string) (*escort.Annotated, error)
	// PodsByLabel returns the pods of a namespace that have all labels, finished ones excepted.
	PodsByLabel(ctx context.Context, namespace string, labels map[string]string) ([]escort.Pod, error)
	// NodeFate returns whether a node stays.
	NodeFate(ctx context.Context, name string) (escort.NodeFate, error)
	// GetFromPod sends a GET to a pod's port through the API server, and returns the answer to a request that succeeded.
	GetFromPod(ctx context.Context, pod drain.Ref, port int, tls bool, path string) ([]byte, error)
	// VolumeFollows reports whether the volume of a claim outlives its pod and can be attached to another node. An unknown kind of volume
	// counts as one that cannot.
	VolumeFollows(ctx context.Context, namespace, claim string) (bool, error)
	// VolumeZones returns the zones that the volume of a claim cannot leave, when it is in use in the zone here; none: it is in no zone.
	VolumeZones(ctx context.Context, namespace, claim, here string) (zones []string, err error)
	// OtherNodeStays reports whether the zones have a node that takes pods and stays, beside the one of this name.
	OtherNodeStays(ctx context.Context, zones []string, beside string) (bool, error)
	// Custom reads a custom resource as JSON into a type with the fields that it needs. It reports false if there is none.
	Custom(ctx context.Context, group, resource, namespace, name string, into any) (bool, error)
}
