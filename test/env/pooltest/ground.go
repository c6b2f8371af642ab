package pooltest

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

// Ground is a stage on which trials are held. What a trial leaves alive of its machines, the next one uses: to start one takes
// seconds of all processors, which the trials beside it feel.
type Ground struct {
	*env.Env

	mutex sync.Mutex
	stays *env.Instance  // with the databases and the workers; nil: not made yet
	spare []env.Instance // alive, empty, and in no trial
}

// NewGround makes no machine yet.
func NewGround(s *env.Env) *Ground { return &Ground{Env: s} }

// base is the machine that no trial takes away.
func (g *Ground) base(ctx context.Context) (env.Instance, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.stays == nil {
		made, err := g.GroupWithoutHook(ctx, baseGroup, 1)
		if err != nil {
			return env.Instance{}, err
		}
		g.stays = &made[0]
	}
	return *g.stays, nil
}

// take puts n machines into a group: those that are spare, and new ones.
func (g *Ground) take(ctx context.Context, group string, n int) ([]env.Instance, error) {
	taken := g.takeSpare(n)
	if err := g.Move(ctx, group, taken...); err != nil {
		return nil, err
	}
	made, err := g.Launch(ctx, group, n-len(taken))
	return append(taken, made...), err
}

func (g *Ground) takeSpare(n int) (taken []env.Instance) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	n = min(n, len(g.spare))
	taken, g.spare = g.spare[:n:n], g.spare[n:]
	return taken
}

// giveBack readies a machine whose pods have been told to go for the next trial: it undoes what a drain or a test did to keep
// pods off its node.
func (g *Ground) giveBack(ctx context.Context, i env.Instance) error {
	_, err := g.Lab.Client().CoreV1().Nodes().Patch(ctx, i.Node, types.MergePatchType,
		[]byte(`{"spec":{"unschedulable":null,"taints":null}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if err := g.emptied(ctx, i); err != nil {
		return err
	}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.spare = append(g.spare, i)
	return nil
}

// emptied waits until the last pod is gone.
func (g *Ground) emptied(ctx context.Context, i env.Instance) error {
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
