package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Peers returns the pods that the pod's owner counts as its own, including the pod itself. Pods that have succeeded or
// failed do not count. It returns none if the owner has no selector.
func (c *Client) Peers(ctx context.Context, p escort.Pod) ([]escort.Peer, error) {
	owner, err := c.controllerOf(ctx, p)
	if owner == nil || err != nil {
		return nil, err
	}
	pods, err := list[corev1.Pod](ctx, c, podResource, p.Namespace, metav1.FormatLabelSelector(owner.Spec.Selector))
	if err != nil {
		return nil, err
	}
	var peers []escort.Peer
	nodes := nodeLookup{Client: c, known: map[string]bool{}}
	for i := range pods {
		if !isCounted(&pods[i], owner) {
			continue
		}
		peer := toPeer(&pods[i])
		if peer.NodeLeaving, err = nodes.isLeaving(ctx, peer.Node); err != nil {
			return nil, err
		}
		peers = append(peers, peer)
	}
	return peers, nil
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

// isLeaving reports whether the node is cordoned, terminating or gone. An empty name is a pod without a node, which no node
// takes away.
func (l nodeLookup) isLeaving(ctx context.Context, name string) (bool, error) {
	leaving, known := l.known[name]
	if known || name == "" {
		return leaving, nil
	}
	node, err := l.getNode(ctx, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get node %s: %w", name, err)
	}
	l.known[name] = err != nil || node.Spec.Unschedulable || hasTerminatingTaint(node)
	return l.known[name], nil
}
