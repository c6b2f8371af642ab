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

// Cluster is one node. It implements drain.Cluster, and drain.Owners.
type Cluster struct {
	changed chan struct{}

	mu          sync.Mutex
	pods        map[string]drain.Pod
	stops       map[string]time.Duration
	pdbs        map[string]*pdb
	blocked     bool // a PDB refused an eviction; since then Pods names the PDBs
	node        drain.NodeState
	errs        map[string][]error
	denied      map[string]string        // by request, the text of a webhook
	slow        map[string]time.Duration // by kind of request
	controllers map[string]*controller   // by UID
	timers      map[string]*time.Timer   // by pod, when it has stopped
	deaf        map[string]bool          // pods that outlast their grace
	events      []drain.PodEvent
	log         []string
}

var (
	_ drain.Cluster = (*Cluster)(nil)
	_ drain.Owners  = (*Cluster)(nil)
)

// pdb is a PodDisruptionBudget of the pods whose label "budget" is its name.
type pdb struct{ allowed int }

// New returns an empty node.
func New() *Cluster {
	return &Cluster{
		changed: make(chan struct{}, 1), pods: map[string]drain.Pod{}, stops: map[string]time.Duration{},
		pdbs: map[string]*pdb{}, errs: map[string][]error{}, denied: map[string]string{}, slow: map[string]time.Duration{},
		controllers: map[string]*controller{}, timers: map[string]*time.Timer{}, deaf: map[string]bool{},
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
	c.node.Unreachable = unreachable
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
	c.remove(pod)
}

func (c *Cluster) remove(pod string) {
	gone, here := c.pods[pod]
	delete(c.pods, pod)
	c.note("gone " + pod)
	if here && !gone.Terminating() {
		c.replace(gone)
	}
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

// FinishedPods implements drain.Cluster.
func (c *Cluster) FinishedPods() (n int) {
	for _, p := range c.Pods() {
		if p.Finished {
			n++
		}
	}
	return n
}

// Node implements drain.Cluster.
func (c *Cluster) Node() drain.NodeState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node
}

// Changed implements drain.Cluster.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

// Evict implements drain.Cluster.
func (c *Cluster) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if err := c.answerSlowly(ctx, "evict"); err != nil {
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

// Delete implements drain.Cluster. It shortens the grace period of a terminating pod.
func (c *Cluster) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	if err := c.answerSlowly(ctx, "delete"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.String()
	if err := c.nextError("delete " + name); err != nil {
		return err
	}
	switch pod, here := c.pods[name]; {
	case !here || pod.UID != ref.UID:
	case !pod.Terminating():
		c.note(fmt.Sprintf("delete %s %s", name, grace))
		c.stop(name, pod, grace)
	case pod.StopsBy.After(time.Now().Add(grace)):
		c.note(fmt.Sprintf("shorten %s %s", name, grace))
		c.shorten(name, pod, grace)
	}
	return nil
}

func (c *Cluster) nextError(request string) error {
	if text := c.denied[request]; text != "" {
		c.note("deny " + request)
		return &drain.Refused{Reason: text}
	}
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
	takes := c.stops[name]
	if grace > 0 {
		if !c.deaf[name] {
			takes = min(takes, grace)
		}
		pod.StopsBy = pod.Deleted.Add(grace)
	}
	c.pods[name] = pod
	c.stopIn(name, pod, takes)
	c.replace(pod)
	c.announce()
}

// shorten ends the grace period of a terminating pod earlier.
func (c *Cluster) shorten(name string, pod drain.Pod, grace time.Duration) {
	pod.StopsBy = time.Now().Add(grace)
	c.pods[name] = pod
	takes := grace
	if timer := c.timers[name]; timer != nil && timer.Stop() {
		takes = min(takes, max(0, time.Until(pod.Deleted.Add(c.stops[name]))))
	}
	c.stopIn(name, pod, takes)
	c.announce()
}

func (c *Cluster) stopIn(name string, pod drain.Pod, takes time.Duration) {
	c.timers[name] = time.AfterFunc(takes, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pods[name].UID == pod.UID {
			c.remove(name)
		}
	})
}

func (c *Cluster) note(line string) { c.log = append(c.log, line) }

func (c *Cluster) announce() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
