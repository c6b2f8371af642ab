package poolers

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// emptyInterval is the time between checks of a node that takes two or three seconds to become empty.
const emptyInterval = 200 * time.Millisecond

// baseGroup is the group of the node that has all databases and workers.
const baseGroup = "base"

// NodePool is an environment whose nodes are reused by one fixture after the other. Starting a node takes seconds on all cores
// and would disturb fixtures beside it.
type NodePool struct {
	*env.Env

	mutex sync.Mutex
	base  *env.Instance   // has the databases and the workers; nil: not started yet
	spare []env.Instance  // running, empty, and in no fixture
	dead  map[string]bool // instances whose nodes were killed
}

// StartNodePool starts an environment with machines where it can run, and returns a pool without nodes. images are the names of the
// Debian images that the machines have; default as in env.Options.
func StartNodePool(ctx context.Context, images ...string) (*NodePool, error) {
	if err := lab.MissingForMachines(); err != nil {
		return nil, err
	}
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	s, err := env.Start(ctx, env.Options{Root: root, Machines: true, Images: images})
	if err != nil {
		return nil, err
	}
	return NewNodePool(s), nil
}

// NewNodePool returns a pool without nodes.
func NewNodePool(s *env.Env) *NodePool { return &NodePool{Env: s, dead: map[string]bool{}} }

// BaseNode returns the node that no fixture terminates.
func (g *NodePool) BaseNode(ctx context.Context) (env.Instance, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.base == nil {
		made, err := g.GroupWithoutHook(ctx, baseGroup, 1)
		if err != nil {
			return env.Instance{}, err
		}
		g.base = &made[0]
	}
	return *g.base, nil
}

// Acquire puts n nodes into a group: spare ones first, then new ones.
func (g *NodePool) Acquire(ctx context.Context, group string, n int) ([]env.Instance, error) {
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

// AwaitTermination waits until Auto Scaling has terminated the instance, then kills its node.
func (g *NodePool) AwaitTermination(ctx context.Context, i env.Instance) error {
	for g.AWS.State(i.ID) != "" {
		if err := Wait(ctx, pollInterval); err != nil {
			return err
		}
	}
	if err := Wait(ctx, shutdownTime); err != nil {
		return err
	}
	return g.kill(ctx, i)
}

func (g *NodePool) kill(ctx context.Context, i env.Instance) error {
	g.mutex.Lock()
	was := g.dead[i.ID]
	g.dead[i.ID] = true
	g.mutex.Unlock()
	if was {
		return nil
	}
	return g.Lab.Kill(ctx, i.Node)
}

// Release prepares a node, whose pods are being deleted, for the next fixture. It removes the node if the instance is not in service.
func (g *NodePool) Release(ctx context.Context, i env.Instance) error {
	if g.AWS.State(i.ID) == inService {
		return g.reuse(ctx, i)
	}
	if err := g.kill(ctx, i); err != nil {
		return err
	}
	return g.Lab.RemoveNode(ctx, i.Node)
}

// reuse removes cordon and taints of a node, and waits until it is empty.
func (g *NodePool) reuse(ctx context.Context, i env.Instance) error {
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
