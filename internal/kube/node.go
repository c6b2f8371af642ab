package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

// nodePage bounds the nodes of one page of a search.
const nodePage = 500

// NodeByName returns the node of this name; nil if there is none.
func (c *Client) NodeByName(ctx context.Context, name string) (*drain.Node, error) {
	node, err := c.nodeIfExists(ctx, name)
	if node == nil || err != nil {
		return nil, err
	}
	return toNode(node), nil
}

// nodeIfExists returns the node of this name; nil if there is none.
func (c *Client) nodeIfExists(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := c.getNode(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", name, err)
	}
	return node, nil
}

// toNode returns what the domain needs of a node. The node controller sets Ready=Unknown if it has not heard from the
// kubelet for its grace period (https://kubernetes.io/docs/reference/node/node-status/#condition).
func toNode(n *corev1.Node) *drain.Node {
	node := &drain.Node{Name: n.Name, UID: string(n.UID), InstanceID: claimedInstance(n)}
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

// listedFields are the fields of a node that a search reads: not its images, which are most of the object
// (https://github.com/kubernetes/api/blob/master/core/v1/generated.proto). A taint needs all others, so the spec is whole.
var listedFields = wireFields{
	objectMetadata: {1: nil, 5: nil, 6: nil, 9: nil, 11: nil, 12: nil}, // name, UID, version, time of deletion, labels, annotations
	2:              nil,                                                // spec
	3:              {4: {1: nil, 2: nil}, 5: nil},                      // status: conditions: type, status; addresses
}

// errEnough ends a search whose visitor needs no more nodes.
var errEnough = errors.New("no more nodes are needed")

// eachNode calls visit for each node, page by page, until visit returns true. One node at a time is in memory.
func (c *Client) eachNode(ctx context.Context, options metav1.ListOptions, visit func(*corev1.Node) (done bool)) error {
	options.Limit = nodePage
	for {
		next, err := c.eachOfPage(ctx, options, visit)
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil || next == "" {
			return err
		}
		options.Continue, options.ResourceVersion = next, "" // the token carries the version
	}
}

// eachOfPage calls visit for each node of one page, and returns the token of the next page; empty: this is the last one.
func (c *Client) eachOfPage(ctx context.Context, options metav1.ListOptions, visit func(*corev1.Node) (done bool)) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := c.core.Get().Resource("nodes").VersionedParams(&options, params).SetHeader("Accept", protobuf).Timeout(callTimeout).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	reader := listReader{visit: func(object []byte) error {
		n := &corev1.Node{}
		if err := decodeKept(object, listedFields, n); err != nil {
			return err
		}
		if visit(n) {
			return errEnough
		}
		return nil
	}}
	metadata, err := reader.read(body)
	return metadata.Continue, err
}

// claimedInstance returns the instance that the node claims to be: the last segment of its provider ID
// (aws:///<zone>/<instance>, https://cloud-provider-aws.sigs.k8s.io/prerequisites/). Empty: it claims none.
func claimedInstance(node *corev1.Node) string {
	return node.Spec.ProviderID[strings.LastIndexByte(node.Spec.ProviderID, '/')+1:]
}

// hasInstance reports whether the node claims to be this instance.
func hasInstance(node *corev1.Node, instanceID string) bool {
	return instanceID != "" && claimedInstance(node) == instanceID
}
