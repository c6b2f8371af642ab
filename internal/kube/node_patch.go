package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

// conflictRetries bounds the retries of a change that failed because the object changed in between. Kubelets write to a node
// every few seconds, so even a second conflict is unlikely.
const conflictRetries = 5

// nodePatch computes a merge patch from a node as it is. A nil patch sends no request; an error ends the change.
type nodePatch func(current *corev1.Node) (map[string]any, error)

// changeFoundNode computes a merge patch from the node, and applies it to exactly that version. It reads the node, unless FindNodes has
// just done so. After a conflict it starts again. Only a drain may use it, which looks for its node first: what FindNodes has read
// for an earlier invocation of this process may be old.
func (c *Client) changeFoundNode(ctx context.Context, node drain.Node, patch nodePatch) (err error) {
	current := c.lastRead.take(node)
	if current == nil {
		if current, err = c.getNode(ctx, node.Name); err != nil {
			return err
		}
	}
	return c.changeNodeFrom(ctx, current, patch)
}

// changeNodeFrom does the same as changeFoundNode, but starts with a node that was read before.
func (c *Client) changeNodeFrom(ctx context.Context, current *corev1.Node, patch nodePatch) error {
	for attempt := 0; ; attempt++ {
		wanted, err := patch(current)
		if wanted == nil || err != nil {
			return err
		}
		err = c.patchNode(ctx, current, wanted)
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

// isUnchanged reports whether the API server answered that it did not make a change. After any other error it may have.
func isUnchanged(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return false
	}
	code := answer.Status().Code
	return code >= http.StatusBadRequest && code < http.StatusInternalServerError || isDenial(err)
}

// boundedError is an error with a shorter text.
type boundedError struct {
	text string
	error
}

func (b boundedError) Error() string { return b.text }
func (b boundedError) Unwrap() error { return b.error }

// bounded returns the error with a short text: an admission webhook may answer with any text.
func bounded(err error) error {
	if err == nil || len(err.Error()) <= drain.MaxText {
		return err
	}
	return boundedError{drain.Short(err.Error()), err}
}
