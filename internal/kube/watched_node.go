package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

// watchedNode watches one node and its pods.
type watchedNode struct {
	*Client
	changed chan struct{}
	pdbs    *pdbs

	mu      sync.Mutex
	current *podSet // nil: the first list is not complete yet
	next    *podSet // a list that is not complete yet; nil: none
	node    nodeWatch
}

var _ drain.Cluster = (*watchedNode)(nil)

// WatchPods lists the node's pods and watches them until ctx ends. One request does both, and its first part is the list.
// WatchPods returns when the list is complete. A second request watches the node itself, and WatchPods does not wait for it:
// until it is answered, or if it is denied, the node's state stays as it was. With drain.EffortMetadata only the metadata of
// pods is read: their grace periods are then the default one, and pods that have finished look like others.
func (c *Client) WatchPods(ctx context.Context, node drain.Node, effort drain.Effort) (drain.Cluster, error) {
	watched := &watchedNode{Client: c, changed: make(chan struct{}, 1), node: newNodeWatch(node)}
	watched.pdbs = newPDBs(ctx, c, watched.notify)
	pods := source[seenPod]{
		Client: c, api: c.core, resource: "pods", field: fields.OneTermEqualSelector("spec.nodeName", node.Name),
		metadata: effort == drain.EffortMetadata, decode: decodePod, sink: podSink{watched},
	}
	source[*corev1.Node]{
		Client: c, api: c.core, resource: "nodes", field: fields.OneTermEqualSelector("metadata.name", node.Name),
		decode: decodeNode, sink: &nodeSink{watchedNode: watched},
	}.start(ctx)
	if err := pods.start(ctx).wait(ctx); err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", node.Name, err)
	}
	return watched, nil
}

// nodeWatch is what the watch of the node knows.
type nodeWatch struct {
	ours       drain.Node
	providerID string // when it was seen first
	seen       bool
	state      drain.NodeState
}

func newNodeWatch(n drain.Node) nodeWatch {
	return nodeWatch{ours: n, state: drain.NodeState{Unreachable: n.Unreachable}}
}

// observe returns the state of the node that this object shows; nil: there is no such node.
func (w *nodeWatch) observe(n *corev1.Node) drain.NodeState {
	if n == nil {
		return drain.NodeState{Unreachable: true}
	}
	if !w.seen {
		w.seen, w.providerID = true, n.Spec.ProviderID
	}
	return drain.NodeState{
		Unreachable: toNode(n).Unreachable,
		Uncordoned:  !n.Spec.Unschedulable,
		Replaced:    w.isReplaced(n),
	}
}

// isReplaced reports whether the object is another one than ours, or now has another instance. A node can get its provider ID
// after it has registered, also one that was found without one.
func (w *nodeWatch) isReplaced(n *corev1.Node) bool {
	if w.ours.UID != "" && string(n.UID) != w.ours.UID {
		return true
	}
	if w.ours.InstanceID == "" {
		return w.providerID != "" && n.Spec.ProviderID != w.providerID
	}
	return n.Spec.ProviderID != w.providerID && claimedInstance(n) != w.ours.InstanceID
}

// nodeFields are the fields of a node that a watch reads
// (https://github.com/kubernetes/api/blob/master/core/v1/generated.proto).
var nodeFields = wireFields{
	objectMetadata: {1: nil, 5: nil},
	2:              {3: nil, 4: nil},      // spec: providerID, unschedulable
	3:              {4: {1: nil, 2: nil}}, // status: conditions: type, status
}

func decodeNode(object []byte) (*corev1.Node, error) {
	n := &corev1.Node{}
	return n, decodeKept(object, nodeFields, n)
}

// nodeSink is the sink of the pods' node.
type nodeSink struct {
	*watchedNode
	listing bool
	listed  *corev1.Node
}

func (s *nodeSink) begin() { s.listing, s.listed = true, nil }

func (s *nodeSink) end() {
	s.listing = false
	s.set(s.listed)
}

func (s *nodeSink) put(n *corev1.Node) {
	if s.listing {
		s.listed = n
		return
	}
	s.set(n)
}

func (s *nodeSink) drop(*corev1.Node) {
	if s.listing {
		s.listed = nil
		return
	}
	s.set(nil)
}

func (s *nodeSink) set(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.node.observe(n); state != s.node.state {
		s.node.state = state
		s.notify()
	}
}

// Node implements drain.Cluster.
func (w *watchedNode) Node() drain.NodeState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.node.state
}

// FinishedPods implements drain.Cluster. It counts at most maxFinishedCounted.
func (w *watchedNode) FinishedPods() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current == nil {
		return 0
	}
	return len(w.current.finished)
}

// Pods implements drain.Cluster.
func (w *watchedNode) Pods() []drain.Pod {
	w.mu.Lock()
	seen := w.current.all()
	w.mu.Unlock()
	return w.pdbs.withPDBs(seen)
}

// pod returns the pod with the UID of ref, if it is still on the node.
func (w *watchedNode) pod(ref drain.Ref) (seenPod, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current.get(ref)
}

// Changed implements drain.Cluster.
func (w *watchedNode) Changed() <-chan struct{} { return w.changed }

// notify signals a change and never blocks: one pending signal stands for all changes before it is received.
func (w *watchedNode) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// podSink is the sink of the node's pods.
type podSink struct{ *watchedNode }

func (s podSink) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = newPodSet()
}

func (s podSink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.next = s.next, nil
	s.notify()
}

func (s podSink) put(p seenPod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.current.get(p.Ref)
	s.observe(&p, before, known)
	if s.next != nil {
		s.next.put(p, known)
		return
	}
	s.current.put(p, known)
	s.notify()
}

func (s podSink) drop(p seenPod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		s.next.remove(p.Ref)
		return
	}
	s.current.remove(p.Ref)
	s.notify()
}

// observe adds to the pod what only a watch can know. A pod that is not in the first list was created after the cordon.
// ContainersEndedAt is when only finalizers were first seen to keep the pod. If the first list already shows that, it may have
// been so since the pod's deletion was requested.
func (s podSink) observe(pod *seenPod, before seenPod, known bool) {
	pod.CreatedAfterCordon = s.current != nil
	if known {
		pod.CreatedAfterCordon = before.CreatedAfterCordon
	}
	switch {
	case !pod.keptByFinalizer:
	case !known:
		pod.ContainersEndedAt = pod.Deleted
	case before.ContainersEndedAt.IsZero():
		pod.ContainersEndedAt = time.Now()
	default:
		pod.ContainersEndedAt = before.ContainersEndedAt
	}
}

func key(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
