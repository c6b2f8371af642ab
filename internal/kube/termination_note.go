package kube

import (
	"context"
	"fmt"
	"quiesce/internal/termination"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unschedulableOnly selects nodes that somebody closed: annotations cannot be selected by, and few nodes of a cluster are closed.
const unschedulableOnly = "spec.unschedulable=true"

// CordonedNodes are the nodes that are closed and bear a mark of Cordon's.
func (c *Client) CordonedNodes(ctx context.Context) ([]termination.CordonedNode, error) {
	var marks []termination.CordonedNode
	err := c.eachNode(ctx, metav1.ListOptions{FieldSelector: unschedulableOnly}, func(n *corev1.Node) (found bool) {
		if m, marked := terminationNoteOf(n); marked {
			marks = append(marks, termination.CordonedNode{Node: *toNode(n), Hook: m.Hook, CordonedAt: m.Cordoned})
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("list closed nodes: %w", err)
	}
	return marks, nil
}
