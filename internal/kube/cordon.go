package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// Cordon closes the node to new pods and to external load balancers, and annotates it, all in one patch. It saves the changes
// first. A node that is already closed for this termination is not changed.
func (c *Client) Cordon(ctx context.Context, node drain.Node, closing termination.Closing) (termination.ClosedNode, error) {
	closed := newClosing(node, closing)
	err := c.changeFoundNode(ctx, node, func(current *corev1.Node) (map[string]any, error) {
		if err := requireSame(current, node); err != nil || closed.isDone(current) {
			return nil, err
		}
		return closed.patch(current), closed.save(ctx)
	})
	if isUnchanged(err) {
		err = errors.Join(err, closed.retract(ctx))
	}
	if err != nil {
		return termination.ClosedNode{}, cordonError(node.Name, err)
	}
	return closed.node, nil
}

// cordonError returns the error in the domain's terms. What a policy, a webhook or RBAC denies is denied again.
func cordonError(node string, err error) error {
	return fmt.Errorf("cordon node %s: %w", node, bounded(refusedIfDenied(err)))
}

func refusedIfDenied(err error) error {
	if isDenial(err) || apierrors.IsForbidden(err) {
		return &drain.Refused{Reason: drain.Short(err.Error())}
	}
	return err
}

// requireSame returns drain.ErrNodeReplaced unless the object is still the node that was found. A node without a provider ID may get one.
func requireSame(current *corev1.Node, node drain.Node) error {
	switch claimed := claimedInstance(current); {
	case node.UID != "" && string(current.UID) != node.UID:
		return fmt.Errorf("%w: its UID was %s and is %s", drain.ErrNodeReplaced, node.UID, current.UID)
	case node.InstanceID != "" && claimed != node.InstanceID:
		return fmt.Errorf("%w: its instance was %s and is %.32q", drain.ErrNodeReplaced, node.InstanceID, claimed)
	}
	return nil
}

// Restore undoes what Cordon and TaintTerminating changed on the node, and only that. A node that is gone needs nothing. The UID is
// enough to know it: the provider ID of an object does not change.
func (c *Client) Restore(ctx context.Context, node drain.Node, closed *termination.ClosedNode) error {
	current, err := c.getNode(ctx, node.Name)
	if err == nil {
		err = c.changeNodeFrom(ctx, current, func(current *corev1.Node) (map[string]any, error) {
			if uid := string(current.UID); node.UID != "" && uid != node.UID || closed != nil && uid != closed.UID {
				return nil, nil
			}
			return restorePatch(current, closed), nil
		})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("restore node %s: %w", node.Name, bounded(err))
	}
	return nil
}
