package poolers

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/test/env"
)

// emptyInterval is the time between checks of a node that takes two or three seconds to become empty.
const emptyInterval = 200 * time.Millisecond

// baseGroup is the group of the node that has all databases and workers.
const baseGroup = "base"

// NodePool is an environment whose nodes are reused by one fixture after the other. Starting a node takes seconds on all cores
// and would disturb fixtures beside it.
type NodePool struct {
	*env.Env

	mutex    sync.Mutex
	baseNode *env.Instance  // has the databases and the workers; nil: not started yet
	spare    []env.Instance // running, empty, and in no fixture
}

// NewNodePool returns a pool without nodes.
func NewNodePool(s *env.Env) *NodePool { return &NodePool{Env: s} }

// base returns the node that no fixture terminates.
func (g *NodePool) base(ctx context.Context) (env.Instance, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.baseNode == nil {
		made, err := g.GroupWithoutHook(ctx, baseGroup, 1)
		if err != nil {
			return env.Instance{}, err
		}
		g.baseNode = &made[0]
	}
	return *g.baseNode, nil
}

// acquire puts n nodes into a group: spare ones first, then new ones.
func (g *NodePool) acquire(ctx context.Context, group string, n int) ([]env.Instance, error) {
	taken := g.acquireSpare(n)
	if err := g.Move(ctx, group, taken...); err != nil {
		return nil, err
	}
	made, err := g.Launch(ctx, group, n-len(taken))
	return append(taken, made...), err
}

func (g *NodePool) acquireSpare(n int) (taken []env.Instance) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	n = min(n, len(g.spare))
	taken, g.spare = g.spare[:n:n], g.spare[n:]
	return taken
}

// release prepares a node, whose pods are being deleted, for the next fixture: it removes cordon and taints.
func (g *NodePool) release(ctx context.Context, i env.Instance) error {
	_, err := g.Lab.Client().CoreV1().Nodes().Patch(ctx, i.Node, types.MergePatchType,
		[]byte(`{"spec":{"unschedulable":null,"taints":null}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if err := g.awaitEmpty(ctx, i); err != nil {
		return err
	}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.spare = append(g.spare, i)
	return nil
}

// awaitEmpty waits until the node has no pods.
func (g *NodePool) awaitEmpty(ctx context.Context, i env.Instance) error {
	for {
		pods, err := g.Lab.Client().CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + i.Node})
		if err != nil || len(pods.Items) == 0 {
			return err
		}
		if err := Wait(ctx, emptyInterval); err != nil {
			return fmt.Errorf("%d pods do not go: %w", len(pods.Items), err)
		}
	}
}
