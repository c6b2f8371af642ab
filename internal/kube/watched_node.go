package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

// watchedNode watches one node and its pods.
type watchedNode struct {
	*Client
	changed chan struct{}
	pdbs    *pdbs

	mu          sync.Mutex
	listed      bool // the first list is complete
	pods        map[types.NamespacedName]drain.Pod
	unreachable bool
}

var _ drain.Cluster = (*watchedNode)(nil)

// WatchPods lists the node's pods and watches them until ctx ends. One request does both, and its first part is the list.
// WatchPods returns when the list is complete. A second request watches the node itself, and WatchPods does not wait for it:
// until it is answered, or if it is denied, node.Unreachable stays as it was.
func (c *Client) WatchPods(ctx context.Context, node drain.Node) (drain.Cluster, error) {
	watched := &watchedNode{Client: c, changed: make(chan struct{}, 1), unreachable: node.Unreachable}
	watched.pdbs = newPDBs(ctx, c, watched.notify)
	pods := source[*corev1.Pod]{
		client: c.core, resource: "pods", field: fields.OneTermEqualSelector("spec.nodeName", node.Name),
		list: func() runtime.Object { return &corev1.PodList{} }, sink: watched,
	}
	source[*corev1.Node]{
		client: c.core, resource: "nodes", field: fields.OneTermEqualSelector("metadata.name", node.Name),
		list: func() runtime.Object { return &corev1.NodeList{} }, sink: nodeSink{watched},
	}.start(ctx)
	if err := pods.start(ctx).wait(ctx); err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", node.Name, err)
	}
	return watched, nil
}

// nodeSink is the sink of the pods' node.
type nodeSink struct{ *watchedNode }

func (s nodeSink) put(n *corev1.Node)  { s.setUnreachable(toNode(n).Unreachable) }
func (s nodeSink) drop(_ *corev1.Node) { s.setUnreachable(true) }

func (s nodeSink) replace(found []*corev1.Node) {
	s.setUnreachable(len(found) == 0 || toNode(found[0]).Unreachable)
}

func (s nodeSink) setUnreachable(unreachable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreachable != unreachable {
		s.unreachable = unreachable
		s.notify()
	}
}

// Unreachable implements drain.Cluster.
func (w *watchedNode) Unreachable() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unreachable
}

// Pods implements drain.Cluster.
func (w *watchedNode) Pods() []drain.Pod {
	w.mu.Lock()
	pods := slices.Collect(maps.Values(w.pods))
	w.mu.Unlock()
	w.pdbs.setPDBs(pods)
	return pods
}

// pod returns the pod with the UID of ref, if it is still on the node.
func (w *watchedNode) pod(ref drain.Ref) (drain.Pod, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod, found := w.pods[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}]
	return pod, found && pod.UID == ref.UID
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

func (w *watchedNode) put(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[key(p)] = w.observe(p)
	w.notify()
}

func (w *watchedNode) drop(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, key(p))
	w.notify()
}

func (w *watchedNode) replace(pods []*corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	current := make(map[types.NamespacedName]drain.Pod, len(pods))
	for _, p := range pods {
		current[key(p)] = w.observe(p)
	}
	w.pods, w.listed = current, true
	w.notify()
}

// observe returns the pod with what only a watch can know. A pod that is not in the first list was created after the cordon.
// ContainersEndedAt is when only finalizers were first seen to keep the pod. If the first list already shows that, it may have
// been so since the pod's deletion was requested.
func (w *watchedNode) observe(p *corev1.Pod) drain.Pod {
	pod := toPod(p)
	before, known := w.pods[key(p)]
	known = known && before.UID == pod.UID
	pod.CreatedAfterCordon = w.listed
	if known {
		pod.CreatedAfterCordon = before.CreatedAfterCordon
	}
	switch {
	case !keptByFinalizers(p):
	case !known:
		pod.ContainersEndedAt = pod.Deleted
	case before.ContainersEndedAt.IsZero():
		pod.ContainersEndedAt = time.Now()
	default:
		pod.ContainersEndedAt = before.ContainersEndedAt
	}
	return pod
}

func key(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
