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

// emptyInterval paces looks at a node that takes two or three seconds to become empty.
const emptyInterval = 200 * time.Millisecond

// baseGroup is that of the machine of all databases and workers.
const baseGroup = "base"

// NodePool is a stage on which trials are held. What a trial leaves alive of its machines, the next one uses: to start one takes
// seconds of all processors, which the trials beside it feel.
type NodePool struct {
	*env.Env

	mutex    sync.Mutex
	baseNode *env.Instance  // with the databases and the workers; nil: not made yet
	spare    []env.Instance // alive, empty, and in no trial
}

// NewNodePool makes no machine yet.
func NewNodePool(s *env.Env) *NodePool { return &NodePool{Env: s} }

// base is the machine that no trial takes away.
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

// acquire puts n machines into a group: those that are spare, and new ones.
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

// release readies a machine whose pods have been told to go for the next trial: it undoes what a drain or a test did to keep
// pods off its node.
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

// awaitEmpty waits until the last pod is gone.
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
