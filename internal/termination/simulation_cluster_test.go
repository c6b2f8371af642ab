package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// leaseTime and leasePace are those of the leases that the function takes (internal/kube).
const (
	leaseTime = 30 * time.Second
	leasePace = 10 * time.Second
)

// node is one node with its pods.
type node struct {
	name, instance string
	pods           map[string]*pod
	watchers       map[*view]bool
	closed         bool
	cordonedAt     time.Time
	hook           string    // of the mark; empty: it waits on none
	began          time.Time // likewise
	lostAt         time.Time // since when nobody hears from the kubelet; zero: it is heard
	tainted        bool
	lease          *lease
	heardAt        time.Time    // when it was heard again; zero: it was not lost
	letGoBy        *incarnation // who completed its action
	letGoAt        time.Time
}

// lease is whose the instance is.
type lease struct {
	owner  *incarnation
	until  time.Time
	shaken bool // a renewal failed

	deadline time.Time // that was left on it; zero: none
	hasten   func(time.Time)
	records  map[string]string // of pods, by UID
}

// pod is one pod, and what became of it.
type pod struct {
	drain.Pod
	plan      podPlan
	budget    *budget
	mustGo    bool      // no verdict keeps it
	evictions int       // tried
	wasOn     *computer // that died with it
	overdue   bool      // it would have stopped, if its kubelet were heard
	paused    *incarnation
	pausedAt  time.Time
	farewell  bool
}

// budget is a disruption budget over an application with pods here and elsewhere.
type budget struct {
	plan            budgetPlan
	name            string
	healthy, needed int
}

func (s *simulation) newNode(c *computer) *node {
	n := &node{name: "node-" + c.id, instance: c.id, pods: map[string]*pod{}, watchers: map[*view]bool{}}
	for i, plan := range c.plan.pods {
		p := &pod{plan: plan, mustGo: !plan.daemon}
		p.Pod = drain.Pod{
			Ref:    drain.Ref{Namespace: "app", Name: fmt.Sprintf("%s-%d", c.id, i), UID: fmt.Sprintf("%s-%d", c.id, i)},
			Labels: map[string]string{"phase": plan.phase}, Grace: plan.grace, Controller: "ReplicaSet",
		}
		if plan.daemon {
			p.Controller = "DaemonSet"
		}
		if plan.held {
			p.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
		}
		if plan.budget >= 0 && !plan.daemon {
			p.budget = s.budgetsNow[plan.budget]
			p.PDBs = []string{p.budget.name}
			p.budget.healthy++
			p.budget.needed++
		}
		n.pods[p.Name] = p
	}
	return n
}

// revive is what a node looks like after its warm pool: the marks are still there, its pods only if they slept with it.
func (n *node) revive(slept bool) {
	for name, p := range n.pods {
		if !slept || p.Terminating() {
			delete(n.pods, name)
		}
	}
}

func (n *node) changed() {
	for v := range n.watchers {
		select {
		case v.notify <- struct{}{}:
		default:
		}
	}
}

// stop has a pod stop: it is gone in its own time, or when its grace is over.
func (s *simulation) stop(n *node, p *pod, grace time.Duration) {
	p.Deleted = time.Now()
	n.changed()
	if p.budget != nil {
		p.budget.healthy--
		if p.budget.plan.ready > 0 {
			s.later(p.budget.plan.ready, func() { p.budget.healthy++; s.changedAll() })
		}
	}
	s.later(min(p.plan.stop, grace), func() { s.stopped(n, p) })
}

// stopped is the end of a pod, unless its kubelet is not heard of it or a finalizer keeps it.
func (s *simulation) stopped(n *node, p *pod) {
	c := s.computer(n.instance)
	switch {
	case n.pods[p.Name] != p:
		return
	case c.broken || !n.lostAt.IsZero():
		p.overdue = true
		return
	case p.plan.kept != 0 && p.ContainersEndedAt.IsZero():
		s.counts["kept by a finalizer"]++
		p.ContainersEndedAt, p.Finalizers = time.Now(), []string{"example.com/keep"}
		if p.plan.kept > 0 {
			s.later(p.plan.kept, func() { s.stopped(n, p) })
		}
	default:
		delete(n.pods, p.Name)
		s.note(nil, "gone", p.Name)
	}
	n.changed()
}

// changedAll: a budget's change is seen on every node.
func (s *simulation) changedAll() {
	for _, c := range s.computers {
		c.node.changed()
	}
}

// cluster implements Kubernetes for one incarnation.
type cluster struct{ *incarnation }

func (k cluster) FindNode(ctx context.Context, id, _, _ string) (found *drain.Node, err error) {
	err = k.ask(ctx, api, func() error {
		if c := k.s.computer(id); c != nil && !c.dead {
			found = &drain.Node{Name: c.node.name, InstanceID: id}
		}
		return nil
	})
	return found, err
}

func (k cluster) NodeByName(context.Context, string) (*drain.Node, error) {
	return nil, errors.New("nobody asks")
}

func (k cluster) Cordon(ctx context.Context, of drain.Node, hook string, began time.Time) (at time.Time, err error) {
	err = k.effect(ctx, api, "cordon", of.InstanceID, func() error {
		c := k.s.computer(of.InstanceID)
		k.cordons(c)
		if n := c.node; !n.closed || !n.began.Equal(began) {
			n.closed, n.hook, n.began, n.cordonedAt = true, hook, began, time.Now()
		}
		at = c.node.cordonedAt
		return nil
	})
	return at, err
}

func (k cluster) TaintTerminating(ctx context.Context, others []drain.Node) (err error) {
	for _, other := range others {
		err = errors.Join(err, k.effect(ctx, api, "repel", other.InstanceID, func() error {
			if c := k.s.computer(other.InstanceID); c != nil && !c.dead {
				k.writes(c, "tainted")
				c.node.tainted = true
			}
			return nil
		}))
	}
	return err
}

func (k cluster) Restore(ctx context.Context, of drain.Node, hook string) (ours bool, err error) {
	err = k.effect(ctx, api, "restore", of.InstanceID, func() error {
		c := k.s.computer(of.InstanceID)
		if ours = !c.node.closed || c.node.hook == hook; ours {
			k.restores(c)
			c.node.closed, c.node.tainted, c.node.hook = false, false, ""
		}
		return nil
	})
	return ours, err
}

// RecordEvent takes its time and may fail, as every request.
func (k cluster) RecordEvent(ctx context.Context, _ drain.Node, _ NodeEvent) error {
	return k.ask(ctx, api, func() error { return nil })
}

func (k cluster) CordonedNodes(ctx context.Context) (marks []CordonedNode, err error) {
	err = k.ask(ctx, api, func() error {
		for _, c := range k.s.computers {
			if n := c.node; n.closed && !c.dead {
				marks = append(marks, CordonedNode{drain.Node{Name: n.name, InstanceID: c.id}, n.hook, n.cordonedAt})
			}
		}
		return nil
	})
	return marks, err
}

func (k cluster) AwaitDetached(ctx context.Context, of drain.Node, _ []string) error {
	return k.ask(ctx, api, func() error { k.done(k.s.computer(of.InstanceID), stageVolumes); return nil })
}

func (k cluster) PDBs(context.Context, []drain.Pod) ([]drain.PDB, error) { return nil, nil }

func (k cluster) Leases(ctx context.Context) (all []LeaseInfo, err error) {
	err = k.ask(ctx, api, func() error {
		for _, c := range k.s.computers {
			if l := c.node.lease; l != nil {
				all = append(all, LeaseInfo{Name: c.id, Held: time.Now().Before(l.until)})
			}
		}
		return nil
	})
	return all, err
}

func (k cluster) DeleteFreeLease(ctx context.Context, id string) error {
	return k.effect(ctx, api, "delete lease", id, func() error {
		n := k.s.computer(id).node
		if n.lease == nil || time.Now().Before(n.lease.until) {
			return nil
		}
		k.s.counts["lease deleted"]++
		k.deletesLease(id)
		n.lease = nil
		return nil
	})
}

// AcquireLease takes the lease, and renews it until ctx ends or it is released.
func (k cluster) AcquireLease(ctx context.Context, id string, shorten func(time.Time)) (Lease, error) {
	mine, acquired := &lease{owner: k.incarnation, hasten: shorten, records: map[string]string{}}, false
	err := k.effect(ctx, api, "own", id, func() error {
		n := k.s.computer(id).node
		if n.lease != nil && time.Now().Before(n.lease.until) {
			return nil
		}
		k.owns(n.lease, id)
		mine.until, acquired = time.Now().Add(leaseTime), true
		if n.lease != nil { // of one that crashed, or handed off
			mine.deadline, mine.records = n.lease.deadline, maps.Clone(n.lease.records)
			mine.listen()
		}
		n.lease = mine
		return nil
	})
	if !acquired || err != nil {
		return nil, err
	}
	k.has(id, true)
	renewing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); k.renew(renewing, mine) }()
	return heldLease{k, mine, id, ctx, func() { stop(); <-done }}, nil
}

// heldLease is a lease in the hands of an incarnation.
type heldLease struct {
	cluster
	lease *lease
	id    string
	ctx   context.Context
	stop  func()
}

// Record reads what the holder last saw of its lease.
func (h heldLease) Record(uid string) (text string) {
	h.s.locked(func() { text = h.lease.records[uid] })()
	return text
}

func (h heldLease) SetRecord(ctx context.Context, uid, text string) error {
	return h.effect(ctx, api, "record", uid, func() error {
		if h.s.computer(h.id).node.lease != h.lease {
			return errors.New("the lease is another's")
		}
		h.lease.records[uid] = text
		if text == "" {
			delete(h.lease.records, uid)
		}
		return nil
	})
}

// ShortenDeadline leaves a deadline on the lease.
func (k cluster) ShortenDeadline(ctx context.Context, id string, deadline time.Time) error {
	return k.effect(ctx, api, "hasten", id, func() error {
		k.s.counts["drain hastened"]++
		if l := k.s.computer(id).node.lease; l != nil {
			l.deadline = deadline
		}
		return nil
	})
}

func (l *lease) listen() {
	if !l.deadline.IsZero() {
		l.hasten(l.deadline)
	}
}

// has notes what the incarnation itself believes.
func (k cluster) has(id string, owned bool) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.owned[id] = owned
	if c := k.s.computer(id); owned {
		c.owners = append(c.owners, k.incarnation)
	} else {
		c.owners = slices.DeleteFunc(c.owners, func(i *incarnation) bool { return i == k.incarnation })
	}
}

func (k cluster) renew(ctx context.Context, l *lease) {
	for pause(ctx, leasePace) == nil {
		err := k.ask(ctx, api, func() error {
			l.until = time.Now().Add(leaseTime)
			l.listen()
			return nil
		})
		k.s.locked(func() { l.shaken = l.shaken || err != nil })()
	}
}

func (h heldLease) Release(keep Keep) error {
	h.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), 2*time.Second)
	defer cancel()
	h.has(h.id, false)
	return h.effect(ctx, api, "release", h.id, func() error {
		c, l := h.s.computer(h.id), h.lease
		l.until = time.Time{}
		if keep != KeepAll {
			l.deadline = time.Time{}
		}
		if keep == KeepNothing {
			l.records = nil
		}
		if c.node.lease == l && l.deadline.IsZero() && len(l.records) == 0 {
			c.node.lease = nil
		}
		if c.waits() {
			c.action.owned = time.Time{}
		}
		return nil
	})
}

// view is the watched node, as drain.Cluster.
type view struct {
	cluster
	computer *computer
	notify   chan struct{}
}

func (k cluster) WatchPods(ctx context.Context, of drain.Node) (drain.Cluster, error) {
	v := &view{k, nil, make(chan struct{}, 1)}
	err := k.ask(ctx, api, func() error {
		v.computer = k.s.computer(of.InstanceID)
		v.computer.node.watchers[v] = true
		return nil
	})
	context.AfterFunc(ctx, k.s.locked(func() {
		if v.computer != nil {
			delete(v.computer.node.watchers, v)
		}
	}))
	return v, err
}

func (v *view) Pods() (pods []drain.Pod) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, p := range v.computer.node.pods {
		pods = append(pods, p.Pod)
	}
	return pods
}

func (v *view) Unreachable() bool {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return !v.computer.node.lostAt.IsZero()
}

func (v *view) Changed() <-chan struct{} { return v.notify }

func (v *view) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if o.DryRun {
		return v.ask(ctx, api, func() error { return v.refuses(v.computer.node.pods[ref.Name]) })
	}
	return v.effect(ctx, api, "evict", ref.Name, func() error {
		p := v.computer.node.pods[ref.Name]
		v.evicts(v.computer, p)
		if p == nil || p.Terminating() {
			return nil
		}
		p.evictions++
		if err := v.refuses(p); err != nil {
			return err
		}
		v.s.stop(v.computer.node, p, cmp.Or(o.Grace, p.Grace))
		return nil
	})
}

// refuses is the answer of the pod's budget; nil: it has room.
func (v *view) refuses(p *pod) error {
	if p == nil || p.Terminating() || p.budget == nil || p.budget.healthy > p.budget.needed {
		return nil
	}
	return &drain.Blocked{PDBs: []string{p.budget.name}, Reason: "no disruption allowed"}
}

func (v *view) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	return v.effect(ctx, api, "delete", ref.Name, func() error {
		p := v.computer.node.pods[ref.Name]
		v.deletes(v.computer, p, grace)
		if p != nil && !p.Terminating() {
			v.s.stop(v.computer.node, p, grace)
		}
		return nil
	})
}
