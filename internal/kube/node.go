package kube

import (
	"context"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

// nodePage bounds the nodes of one page of a search.
const nodePage = 500

// FindNode returns the node of an instance; nil if no node has the instance. It looks by name if a name is known, then among
// the nodes of the zone, then among all nodes, page by page.
func (c *Client) FindNode(ctx context.Context, instanceID, name, zone string) (*drain.Node, error) {
	node, err := c.findNodeByName(ctx, instanceID, name)
	if node != nil || err != nil {
		return node, err
	}
	for _, selector := range zoneSelectors(zone) {
		node, err := c.searchNodes(ctx, instanceID, selector)
		if node != nil || err != nil {
			return node, err
		}
	}
	return nil, nil
}

func zoneSelectors(zone string) []string {
	if zone == "" {
		return []string{""}
	}
	return []string{corev1.LabelTopologyZone + "=" + zone, ""}
}

func (c *Client) findNodeByName(ctx context.Context, instanceID, name string) (*drain.Node, error) {
	if name == "" {
		return nil, nil
	}
	node, err := c.NodeByName(ctx, name)
	if node == nil || err != nil || node.InstanceID != instanceID {
		return nil, err
	}
	return node, nil
}

// NodeByName returns the node of this name; nil if there is none.
func (c *Client) NodeByName(ctx context.Context, name string) (*drain.Node, error) {
	node, err := c.getNode(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", name, err)
	}
	return toNode(node), nil
}

// toNode returns what the domain needs of a node. The node controller sets Ready=Unknown if it has not heard from the
// kubelet for its grace period (https://kubernetes.io/docs/reference/node/node-status/#condition).
func toNode(n *corev1.Node) *drain.Node {
	node := &drain.Node{Name: n.Name, UID: string(n.UID), InstanceID: path.Base(n.Spec.ProviderID)}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			node.Unreachable = condition.Status == corev1.ConditionUnknown
		}
	}
	return node
}

func (c *Client) getNode(ctx context.Context, name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	return node, c.core.Get().Resource("nodes").Name(name).Timeout(callTimeout).Do(ctx).Into(node)
}

func (c *Client) searchNodes(ctx context.Context, instanceID, selector string) (found *drain.Node, err error) {
	err = c.eachNode(ctx, metav1.ListOptions{LabelSelector: selector}, func(n *corev1.Node) bool {
		if hasInstance(n, instanceID) {
			found = toNode(n)
		}
		return found != nil
	})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return found, nil
}

// eachNode calls visit for each node, page by page, until visit returns true.
func (c *Client) eachNode(ctx context.Context, options metav1.ListOptions, visit func(*corev1.Node) (done bool)) error {
	options.Limit = nodePage
	for {
		page := &corev1.NodeList{}
		err := c.core.Get().Resource("nodes").VersionedParams(&options, params).Timeout(callTimeout).Do(ctx).Into(page)
		if err != nil {
			return err
		}
		for i := range page.Items {
			if visit(&page.Items[i]) {
				return nil
			}
		}
		if page.Continue == "" {
			return nil
		}
		options.Continue, options.ResourceVersion = page.Continue, "" // the token carries the version
	}
}

// hasInstance reports whether the node is the instance's: the provider ID ends in the instance ID
// (aws:///<zone>/<instance>, https://cloud-provider-aws.sigs.k8s.io/prerequisites/).
func hasInstance(node *corev1.Node, instanceID string) bool {
	return instanceID != "" && strings.HasSuffix(node.Spec.ProviderID, "/"+instanceID)
}
