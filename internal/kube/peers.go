package kube

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Peers returns the pods that the pod's owner counts as its own, including the pod itself. Pods that have succeeded or
// failed do not count. It returns none if the owner has no selector.
func (c *Client) Peers(ctx context.Context, p escort.Pod) ([]escort.Peer, error) {
	peers, err := c.peers(ctx, p)
	return peers, withPermission(err)
}

func (c *Client) peers(ctx context.Context, p escort.Pod) ([]escort.Peer, error) {
	owner, err := c.controllerOf(ctx, p)
	if owner == nil || err != nil {
		return nil, err
	}
	if owner.Spec.Selector == nil {
		return nil, nil
	}
	peers, err := c.podsOf(ctx, p.Namespace, owner)
	if err != nil {
		return nil, fmt.Errorf("list pods of namespace %s: %w", p.Namespace, err)
	}
	nodes := nodeLookup{Client: c, known: map[string]bool{}}
	for i := range peers {
		if peers[i].NodeLeaving, err = nodes.isLeaving(ctx, peers[i].Node); err != nil {
			return nil, err
		}
	}
	return peers, nil
}

// podsOf returns the pods that the owner counts.
func (c *Client) podsOf(ctx context.Context, namespace string, owner *controller) (peers []escort.Peer, err error) {
	options := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(owner.Spec.Selector)}
	request := c.core.Get().Namespace(namespace).Resource("pods").VersionedParams(&options, params)
	err = eachObject(ctx, request, func(object []byte) error {
		var pod corev1.Pod
		if err := decodeKept(object, podFields, &pod); err != nil {
			return err
		}
		if isCounted(&pod, owner) {
			peers = append(peers, toPeer(&pod))
		}
		return nil
	})
	return peers, err
}

func isCounted(p *corev1.Pod, owner *controller) bool {
	controller := metav1.GetControllerOf(p)
	return controller != nil && string(controller.UID) == owner.Metadata.UID &&
		p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func toPeer(p *corev1.Pod) escort.Peer {
	return escort.Peer{
		Ref:  drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)},
		Node: p.Spec.NodeName, Ready: isReady(p), Terminating: p.DeletionTimestamp != nil, Created: p.CreationTimestamp.Time,
	}
}

// nodeLookup reads each node at most once.
type nodeLookup struct {
	*Client
	known map[string]bool // by node name: whether the node is going away
}

// isLeaving reports whether the node is being removed, by quiesce or another tool, or is gone. An empty name is a pod without a node: no
// removal takes it away.
func (l nodeLookup) isLeaving(ctx context.Context, name string) (bool, error) {
	leaving, known := l.known[name]
	if known || name == "" {
		return leaving, nil
	}
	node, err := l.getNode(ctx, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get node %s: %w", name, err)
	}
	l.known[name] = err != nil || isGoing(node)
	return l.known[name], nil
}

// isGoing reports whether a tool or a person removes the node. A node whose kubelet does not report may return soon, so it does not count.
func isGoing(node *corev1.Node) bool {
	known := *node
	known.Spec.Taints = slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnreachable })
	return WhyLeaving(&known) != ""
}
