// Package escort holds what all escorts see and share: the pod and its surroundings, the credentials of a console, and the
// annotation by which the owner of a pod chooses its escort.
//
// An escort gets one kind of pod off a node without loss. The package knows no database and no API server: kube fills its
// types, and escorts decide by them.
package escort

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// Annotation is on a pod whose owner chooses its escort: the value is the escort's kind, or None.
const Annotation = "quiesce/escort"

// None is the value of Annotation on a pod that is evicted without an escort, whatever its labels.
const None = "none"

// Pod is a pod as an escort sees it: what a drain knows of it, and where it runs, what runs in it, and whose it is.
type Pod struct {
	drain.Pod
	Node       string
	IP         string
	Ready      bool
	Owner      Owner // the controller; zero: none
	Containers []Container
}

// Owner is the controller of pods. Its kind bears the API group where that is not apps: StatefulSet.apps.kruise.io.
type Owner struct{ Kind, Name, UID string }

// Container is a container that runs as long as its pod: regular ones and sidecars.
type Container struct {
	Name, Image string
	Ports       []Port
	PreStop     []string      // the command of its hook; an HTTP or sleep hook is its name and value: [sleep 5], [httpGet /path]
	Liveness    LivenessProbe // zero: none
}

// Port is a port that a container declares.
type Port struct {
	Name   string
	Number int
}

// LivenessProbe is the part of a probe that matters to a process that stops listening.
type LivenessProbe struct {
	Port   int           // the port it connects to; zero: none
	Window time.Duration // how long it may fail before the container is killed: period times threshold
}

// Selectors are the objects of a pod's namespace that select the pod.
type Selectors struct {
	Owner    *Selector // nil: the owner has none
	Replicas int       // the owner's desired pods
	Services []Selector
	PDBs     []PDB
	Policies []Selector // of network policies: one for each of a policy's selectors that has to do with the pod
}

// Selector selects pods of its namespace by labels.
type Selector struct {
	Name   string
	Labels map[string]string // exact
	Keys   []string          // label keys of expressions, whatever they require of them
}

// SelectsExactly reports whether the selector requires this label, and nothing else of its key: an expression's effect on a
// missing key depends on its operator.
func (s Selector) SelectsExactly(key, value string) bool {
	selected, has := s.Labels[key]
	return has && selected == value && !slices.Contains(s.Keys, key)
}

// Mentions reports whether the selector requires anything of the key.
func (s Selector) Mentions(key string) bool {
	_, has := s.Labels[key]
	return has || slices.Contains(s.Keys, key)
}

// PDB is a PodDisruptionBudget with its selector.
type PDB struct {
	Selector
	DisruptionsAllowed int
	NeverReason        string // why it can never allow a disruption; empty: it can
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
