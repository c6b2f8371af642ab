// Package escort has what all escorts share: the pod, the objects that select it, its peers, the credentials of a console, and
// the annotation with which a pod's owner chooses an escort. Escorts also share how they wait, take turns and evict.
//
// An escort gets one kind of pod off a node without loss. The package knows no database and no API server. Package kube
// fills its types, and escorts decide with them.
package escort

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// Annotation chooses the escort of a pod. Its value is the kind of the escort, or None.
const Annotation = "quiesce/escort"

// DatabaseAnnotation is on a pooler whose databases are all those of one cluster, where neither its configuration nor its labels say so.
// Its value is the cluster's name, with or without its namespace.
const DatabaseAnnotation = "quiesce/database"

// None is the value of Annotation for an eviction without an escort, whatever the pod's labels are.
const None = "none"

// Pod is a pod as an escort sees it: the drain's fields, the node, the containers and the owner.
type Pod struct {
	drain.Pod
	Node       string
	IP         string
	Ready      bool
	Owner      Owner // the controller; zero: none
	Containers []Container
	// NodeVolume is the pod's volume on its node that PostgreSQL's data directory is in, as its environment says; empty: none is known.
	NodeVolume string
}

// Owner is the controller of a pod. Its kind has the API group unless that is apps or core: StatefulSet.apps.kruise.io.
type Owner struct{ Kind, Name, UID string }

// Container is a container that runs as long as its pod: a regular one or a sidecar.
type Container struct {
	Name, Image string
	Process     string // the ID of the process that runs, a new one with each start; empty: none runs, or it is not known
	Ports       []Port
	PreStop     []string      // the command of its hook; an HTTP or sleep hook is its name and value: [sleep 5], [httpGet /path]
	Liveness    LivenessProbe // zero: none
}

// Port is a port that a container declares.
type Port struct {
	Name   string
	Number int
}

// LivenessProbe is the part of a liveness probe that matters if the process stops listening.
type LivenessProbe struct {
	Port    int           // the port that the probe connects to; zero: none
	Command []string      // that the probe runs in the container; empty: none
	Window  time.Duration // how long the probe may fail until the kubelet kills the container: period times threshold
}

// Selectors are the objects of a pod's namespace that select the pod.
type Selectors struct {
	Owner    *Selector // nil: no owner, or none with a selector
	Replicas int       // the owner's desired pods
	Services []Selector
	PDBs     []PDB
	Policies []Selector // of network policies: each selector of a policy that concerns the pod
}

// Selector selects pods of its namespace by labels.
type Selector struct {
	Name   string
	Labels map[string]string // exact
	Keys   []string          // label keys of expressions, whatever the operator is
}

// SelectsExactly reports whether the selector requires this label and has no expression for its key. The effect of an
// expression on a missing key depends on its operator.
func (s Selector) SelectsExactly(key, value string) bool {
	selected, has := s.Labels[key]
	return has && selected == value && !slices.Contains(s.Keys, key)
}

// Mentions reports whether the selector has any requirement for the key.
func (s Selector) Mentions(key string) bool {
	_, has := s.Labels[key]
	return has || slices.Contains(s.Keys, key)
}

// PDB is a PodDisruptionBudget with its selector.
type PDB struct {
	Selector
	DisruptionsAllowed int
	NeverReason        string // why the PDB can never allow a disruption; empty: it can
}

// Peer is a pod of the same owner.
type Peer struct {
	drain.Ref
	Node        string
	Ready       bool
	Terminating bool
	NodeLeaving bool // its node is cordoned, terminating or gone
	Created     time.Time
}
