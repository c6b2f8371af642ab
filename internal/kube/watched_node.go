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

// watchedNode is one node's pods under watch.
type watchedNode struct {
	*Client
	changed chan struct{}
	pdbs    *pdbs

	mu          sync.Mutex
	listed      bool
	pods        map[types.NamespacedName]drain.Pod
	unreachable bool
}

var _ drain.Cluster = (*watchedNode)(nil)

// WatchPods lists the node's pods and watches them until ctx ends: one request, its first part being the list. It returns when
// the list is complete. The node itself is watched by another, for which nobody waits: until it is answered, and where it is
// denied, the node is what it was.
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

// nodeSink is the sink of the node that the pods are on.
type nodeSink struct{ *watchedNode }

func (u nodeSink) put(n *corev1.Node)  { u.setUnreachable(toNode(n).Unreachable) }
func (u nodeSink) drop(_ *corev1.Node) { u.setUnreachable(true) }

func (u nodeSink) replace(found []*corev1.Node) {
	u.setUnreachable(len(found) == 0 || toNode(found[0]).Unreachable)
}

func (u nodeSink) setUnreachable(unreachable bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unreachable != unreachable {
		u.unreachable = unreachable
		u.notify()
	}
}

// Unreachable implements drain.Cluster.
func (c *watchedNode) Unreachable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unreachable
}

// Pods implements drain.Cluster.
func (c *watchedNode) Pods() []drain.Pod {
	c.mu.Lock()
	pods := slices.Collect(maps.Values(c.pods))
	c.mu.Unlock()
	c.pdbs.setPDBs(pods)
	return pods
}

// pod is the pod of that very UID, if the node still has it.
func (c *watchedNode) pod(ref drain.Ref) (drain.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, found := c.pods[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}]
	return pod, found && pod.UID == ref.UID
}

// Changed implements drain.Cluster.
func (c *watchedNode) Changed() <-chan struct{} { return c.changed }

// notify never blocks: a change that nobody has received yet stands for this one too.
func (c *watchedNode) notify() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *watchedNode) put(p *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[key(p)] = c.observe(p)
	c.notify()
}

func (c *watchedNode) drop(p *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, key(p))
	c.notify()
}

func (c *watchedNode) replace(pods []*corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := make(map[types.NamespacedName]drain.Pod, len(pods))
	for _, p := range pods {
		found[key(p)] = c.observe(p)
	}
	c.pods, c.listed = found, true
	c.notify()
}

// observe is the pod with what the watch knows of it: a pod that the first list did not have came late, and when one was found
// to be kept by finalizers. What was so at first may have been so since it was told to stop.
func (c *watchedNode) observe(p *corev1.Pod) drain.Pod {
	pod := toPod(p)
	before, known := c.pods[key(p)]
	known = known && before.UID == pod.UID
	pod.CreatedAfterCordon = c.listed
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
