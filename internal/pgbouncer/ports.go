package pgbouncer

import (
	"context"
	"net"
	"time"

	"quiesce/internal/drain"
)

// Kubernetes is what an escort needs of the cluster.
type Kubernetes interface {
	Pods
	Surroundings
	Guards
}

// Pods are the poolers' own.
type Pods interface {
	// Inspect looks at the pod as it is now; nil: it is gone, or another one has its name.
	Inspect(ctx context.Context, ref drain.Ref) (*Pod, error)
	// Amend changes labels and annotations of exactly this pod; a nil value takes one away.
	Amend(ctx context.Context, ref drain.Ref, labels, annotations map[string]*string) error
	// Forward connects to a port of the pod over the API server.
	Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error)
}

// Surroundings are what a pooler stands among.
type Surroundings interface {
	// Around is what selects the pod.
	Around(ctx context.Context, p Pod) (Around, error)
	// Peers are the pods that the same owner has, the pod itself among them; none for a pod without an owner that has a selector.
	Peers(ctx context.Context, p Pod) ([]Peer, error)
	// Serving tells whether any Service still sends new connections to the pod.
	Serving(ctx context.Context, ref drain.Ref) (bool, error)
}

// Guards keep concurrent drains from stopping two poolers of a group at once.
type Guards interface {
	// Hold takes the lease of this name, in the function's own namespace, and keeps it until ctx ends or release is called;
	// held is false if another has it.
	Hold(ctx context.Context, name string) (release func() error, held bool, err error)
}

// Pod is a pooler's pod.
type Pod struct {
	drain.Ref
	Node        string
	IP          string
	Labels      map[string]string
	Annotations map[string]string
	Ready       bool
	Deleted     time.Time // when its termination was asked for (not when its grace ends); zero while it runs
	Grace       time.Duration
	Owner       Owner // that controls it; zero: nobody
	Containers  []Container
}

// Owner controls pods.
type Owner struct {
	Kind, Name, UID string // of the ReplicaSet, StatefulSet or DaemonSet
}

// Container is one of a pod's.
type Container struct {
	Name     string
	Image    string
	Ports    []Port
	PreStop  []string      // command of its hook; an HTTP or sleep hook is its name and value: [sleep 5], [httpGet /path]; empty: none
	Liveness LivenessProbe // zero: none
}

// Port is one that a container declares.
type Port struct {
	Name   string
	Number int
}

// LivenessProbe is what matters of it to something that stops listening.
type LivenessProbe struct {
	Port   int           // whose connects must succeed; zero: it does not connect to one
	Window time.Duration // how long it may fail before the container is killed: period times threshold
}

// Around is what selects a pod.
type Around struct {
	Owner    *Selecting // the owner's selector; nil: it has none
	Replicas int        // that the owner is to have
	Services []Selecting
	Budgets  []Budget
	Policies []Selecting // network policies, by what they apply to and by what they let in or out
}

// Selecting is something of the pod's namespace that selects it by labels.
type Selecting struct {
	Name   string
	Labels map[string]string // exact
	Keys   []string          // of expressions: whatever they ask of these keys
}

// Budget is a disruption budget that selects the pod.
type Budget struct {
	Selecting
	Allowed int    // disruptions, now
	Never   string // why it can never allow one; empty: it can
}

// Peer is a pod of the same owner.
type Peer struct {
	drain.Ref
	Node        string
	Ready       bool
	Terminating bool
	Leaving     bool // its node is cordoned or about to go
	Created     time.Time
}
