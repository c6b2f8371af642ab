package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// unschedulableOnly selects cordoned nodes. Annotations cannot be selected, and few nodes of a cluster are cordoned.
const unschedulableOnly = "spec.unschedulable=true"

// Cordon closes the node to new pods and to external load balancers, and writes the termination note, all in one patch. It
// returns when the node was cordoned. A node that is already cordoned for this termination is not changed.
func (c *Client) Cordon(ctx context.Context, node drain.Node, hook string, began time.Time) (cordoned time.Time, err error) {
	err = c.changeNode(ctx, node.Name, func(current *corev1.Node) map[string]any {
		earlier, exists := terminationNoteOf(current)
		if exists && earlier.Began.Equal(began) && current.Spec.Unschedulable {
			cordoned = earlier.Cordoned
			return nil
		}
		note := newTerminationNote(current, earlier, hook, began)
		cordoned = note.Cordoned
		return note.cordonPatch()
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("cordon node %s: %w", node.Name, err)
	}
	return cordoned, nil
}

// CordonedNodes returns the cordoned nodes that have a termination note.
func (c *Client) CordonedNodes(ctx context.Context) ([]termination.CordonedNode, error) {
	var cordoned []termination.CordonedNode
	err := c.eachNode(ctx, metav1.ListOptions{FieldSelector: unschedulableOnly}, func(n *corev1.Node) (done bool) {
		if note, exists := terminationNoteOf(n); exists {
			cordoned = append(cordoned, termination.CordonedNode{Node: *toNode(n), Hook: note.Hook, CordonedAt: note.Cordoned})
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("list cordoned nodes: %w", err)
	}
	return cordoned, nil
}

// Restore undoes what Cordon and TaintTerminating changed on the node, and only that. If another hook cordoned the node,
// Restore changes nothing and returns false.
func (c *Client) Restore(ctx context.Context, node drain.Node, hook string) (ours bool, err error) {
	err = c.changeNode(ctx, node.Name, func(current *corev1.Node) map[string]any {
		note, exists := terminationNoteOf(current)
		ours = !exists || note.Hook == hook
		if !ours || !exists && !hasTerminatingTaint(current) {
			return nil
		}
		return note.restorePatch(current)
	})
	if err != nil {
		return false, fmt.Errorf("restore node %s: %w", node.Name, err)
	}
	return ours, nil
}
