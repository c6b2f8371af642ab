package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// conflictRetries bounds the retries of a change that failed because the object changed in between. Kubelets write to a node
// every few seconds, so even a second conflict is unlikely.
const conflictRetries = 5

// changeNode reads the node, computes a merge patch from it, and applies the patch to exactly that version. A nil patch
// sends no request. After a conflict it starts again.
func (c *Client) changeNode(ctx context.Context, name string, patch func(*corev1.Node) map[string]any) error {
	current, err := c.getNode(ctx, name)
	if err != nil {
		return err
	}
	return c.changeNodeFrom(ctx, current, patch)
}

// changeNodeFrom does the same as changeNode, but starts with a node that was read before.
func (c *Client) changeNodeFrom(ctx context.Context, current *corev1.Node, patch func(*corev1.Node) map[string]any) error {
	for attempt := 0; ; attempt++ {
		wanted := patch(current)
		if wanted == nil {
			return nil
		}
		err := c.patchNode(ctx, current, wanted)
		if !apierrors.IsConflict(err) || attempt == conflictRetries {
			return err
		}
		if current, err = c.getNode(ctx, current.Name); err != nil {
			return err
		}
	}
}

// patchNode applies a merge patch. It fails with a conflict if the node is no longer of the version that was read.
func (c *Client) patchNode(ctx context.Context, node *corev1.Node, wanted map[string]any) error {
	metadata, _ := wanted["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
		wanted["metadata"] = metadata
	}
	metadata["resourceVersion"] = node.ResourceVersion
	body, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	return c.core.Patch(types.MergePatchType).Resource("nodes").Name(node.Name).Body(body).Timeout(callTimeout).Do(ctx).Error()
}
