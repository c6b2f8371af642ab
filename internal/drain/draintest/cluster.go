// Package draintest is an in-memory node for tests of drains: pods that take time to stop, PDBs, errors, and an ordered log of effects. It
// runs under testing/synctest, where its delays cost nothing.
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

	mu          sync.Mutex
	pods        map[string]drain.Pod
	stops       map[string]time.Duration
	pdbs        map[string]*pdb
	blocked     bool // a PDB refused an eviction; since then Pods names the PDBs
	unreachable bool
	errs        map[string][]error
	log         []string
}

var _ drain.Cluster = (*Cluster)(nil)

// pdb is a PodDisruptionBudget of the pods whose label "budget" is its name.
type pdb struct{ allowed int }

// New returns an empty node.
func New() *Cluster {
	return &Cluster{
		changed: make(chan struct{}, 1), pods: map[string]drain.Pod{}, stops: map[string]time.Duration{},
		pdbs: map[string]*pdb{}, errs: map[string][]error{},
	}
}

// Add puts a pod on the node that takes stop to terminate, but no longer than the grace of its eviction. Missing fields make it an
// evictable pod of a ReplicaSet. Without a grace period it has all the time it takes.
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

// Allow sets how many disruptions the PDB allows. A PDB that was never set allows all.
func (c *Cluster) Allow(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pdbs[name] = &pdb{allowed: n}
	c.announce()
}

// SetUnreachable makes the kubelet unreachable, or reachable again. Pods that are told to stop do so all the same.
func (c *Cluster) SetUnreachable(unreachable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unreachable = unreachable
	c.announce()
}

// End ends the containers of a terminating pod: from now on only the finalizer keeps it.
func (c *Cluster) End(pod, finalizer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pods[pod]
	p.ContainersEndedAt, p.Finalizers = time.Now(), []string{finalizer}
	c.pods[pod] = p
	c.announce()
}

// Fail makes the next evictions of the pod (namespace/name) return these errors, one each. With the prefix "delete ", it makes the
// pod's deletions return them.
func (c *Cluster) Fail(pod string, errs ...error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs[pod] = append(c.errs[pod], errs...)
}

// Remove removes the pod from the node at once.
func (c *Cluster) Remove(pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, pod)
	c.note("gone " + pod)
	c.announce()
}

// Log returns every effect so far, in order.
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
		if name := p.Labels["budget"]; c.blocked && c.pdbs[name] != nil {
			pods[i].PDBs = []string{p.Namespace + "/" + name}
		}
	}
	return pods
}

// Unreachable implements drain.Cluster.
func (c *Cluster) Unreachable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unreachable
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
	if err := c.nextError(name); err != nil {
		return err
	}
	pod, here := c.pods[name]
	if !here || pod.UID != ref.UID || pod.Terminating() {
		return nil
	}
	if pdb := c.pdbs[pod.Labels["budget"]]; pdb != nil {
		if pdb.allowed <= 0 {
			c.blocked = true
			c.note("block " + name)
			return &drain.Blocked{PDBs: []string{pod.Namespace + "/" + pod.Labels["budget"]}, Reason: "no disruption allowed"}
		}
		if !o.DryRun {
			pdb.allowed--
		}
	}
	if o.DryRun {
		return nil
	}
	c.note("evict " + name)
	c.stop(name, pod, cmp.Or(o.Grace, pod.Grace))
	return nil
}

// Delete implements drain.Cluster. It changes nothing about a pod that is already terminating.
func (c *Cluster) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.String()
	if err := c.nextError("delete " + name); err != nil {
		return err
	}
	if pod, here := c.pods[name]; here && pod.UID == ref.UID && !pod.Terminating() {
		c.note(fmt.Sprintf("delete %s %s", name, grace))
		c.stop(name, pod, grace)
	}
	return nil
}

func (c *Cluster) nextError(request string) error {
	errs := c.errs[request]
	if len(errs) == 0 {
		return nil
	}
	c.errs[request] = errs[1:]
	c.note(fmt.Sprintf("fail %s: %v", request, errs[0]))
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

func (c *Cluster) note(line string) { c.log = append(c.log, line) }

func (c *Cluster) announce() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
