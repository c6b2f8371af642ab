// Package draintest is an in-memory node for tests of drains: pods that take their time to stop, budgets, faults, and an
// ordered log of effects. It runs under testing/synctest, where its delays cost nothing.
package draintest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// Cluster is one node. It implements drain.Cluster.
type Cluster struct {
	changed chan struct{}

	mu      sync.Mutex
	pods    map[string]drain.Pod
	stops   map[string]time.Duration
	budgets map[string]*Budget
	learnt  bool // which pods they are over, by a refusal
	lost    bool // the kubelet
	faults  map[string][]error
	log     []string
}

var _ drain.Cluster = (*Cluster)(nil)

// Budget is a disruption budget over the pods that carry its name as the value of their label "budget".
type Budget struct{ Allowed int }

// New makes an empty node.
func New() *Cluster {
	return &Cluster{
		changed: make(chan struct{}, 1), pods: map[string]drain.Pod{}, stops: map[string]time.Duration{},
		budgets: map[string]*Budget{}, faults: map[string][]error{},
	}
}

// Add puts a pod on the node that takes stop to terminate, but no longer than the grace it is given. What it leaves out is filled
// in: an evictable pod of a ReplicaSet; its grace, if it has none, is whatever it takes.
func (c *Cluster) Add(p drain.Pod, stop time.Duration) *Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Namespace == "" {
		p.Namespace = "app"
	}
	if p.UID == "" {
		p.UID = "uid-" + p.Name
	}
	if p.Controller == "" {
		p.Controller = "ReplicaSet"
	}
	c.pods[p.String()], c.stops[p.String()] = p, stop
	c.announce()
	return c
}

// Allow sets how many disruptions the budget allows; a budget that was never set allows all.
func (c *Cluster) Allow(budget string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budgets[budget] = &Budget{Allowed: n}
	c.announce()
}

// Lose makes the kubelet unreachable, or heard of again. Pods that are told to stop do so all the same.
func (c *Cluster) Lose(lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = lost
	c.announce()
}

// End has a terminating pod be kept by nothing but a finalizer from now on.
func (c *Cluster) End(pod, finalizer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pods[pod]
	p.ContainersEndedAt, p.Finalizers = time.Now(), []string{finalizer}
	c.pods[pod] = p
	c.announce()
}

// Fail makes the next evictions of the pod (namespace/name) end in these errors, one each; after the word delete and a space, its
// deletions.
func (c *Cluster) Fail(pod string, errs ...error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[pod] = append(c.faults[pod], errs...)
}

// Remove takes the pod off the node at once.
func (c *Cluster) Remove(pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, pod)
	c.say("gone " + pod)
	c.announce()
}

// Log is every effect so far, in order.
func (c *Cluster) Log() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// Pods implements drain.Cluster.
func (c *Cluster) Pods() []drain.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	pods := slices.Collect(maps.Values(c.pods))
	for i, p := range pods {
		if name := p.Labels["budget"]; c.learnt && c.budgets[name] != nil {
			pods[i].PDBs = []string{p.Namespace + "/" + name}
		}
	}
	return pods
}

// Unreachable implements drain.Cluster.
func (c *Cluster) Unreachable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// Changed implements drain.Cluster.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

// Evict implements drain.Cluster.
func (c *Cluster) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.String()
	if err := c.fault(name); err != nil {
		return err
	}
	pod, here := c.pods[name]
	if !here || pod.UID != ref.UID || pod.Terminating() {
		return nil
	}
	if budget := c.budgets[pod.Labels["budget"]]; budget != nil {
		if budget.Allowed <= 0 {
			c.learnt = true
			c.say("block " + name)
			return &drain.Blocked{PDBs: []string{pod.Namespace + "/" + pod.Labels["budget"]}, Reason: "no disruption allowed"}
		}
		if !o.DryRun {
			budget.Allowed--
		}
	}
	if o.DryRun {
		return nil
	}
	c.say("evict " + name)
	c.stop(name, pod, cmp.Or(o.Grace, pod.Grace))
	return nil
}

// Delete implements drain.Cluster. A pod that is terminating already goes on as it does.
func (c *Cluster) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.String()
	if err := c.fault("delete " + name); err != nil {
		return err
	}
	if pod, here := c.pods[name]; here && pod.UID == ref.UID && !pod.Terminating() {
		c.say(fmt.Sprintf("delete %s %s", name, grace))
		c.stop(name, pod, grace)
	}
	return nil
}

func (c *Cluster) fault(what string) error {
	errs := c.faults[what]
	if len(errs) == 0 {
		return nil
	}
	c.faults[what] = errs[1:]
	c.say(fmt.Sprintf("fail %s: %v", what, errs[0]))
	return errs[0]
}

func (c *Cluster) stop(name string, pod drain.Pod, grace time.Duration) {
	pod.Deleted = time.Now()
	c.pods[name] = pod
	takes := c.stops[name]
	if grace > 0 {
		takes = min(takes, grace)
	}
	time.AfterFunc(takes, func() { c.Remove(name) })
	c.announce()
}

func (c *Cluster) say(line string) { c.log = append(c.log, line) }

func (c *Cluster) announce() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
