package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

// leaseTime and leasePace are the times of the function's Leases (internal/kube).
const (
	leaseTime = 30 * time.Second
	leasePace = 10 * time.Second
)

// simNode is one node with its pods.
type simNode struct {
	name, instance string
	pods           map[string]*simPod
	watchers       map[*simPods]bool
	closed         bool
	claimantClosed bool
	uncordonedAt   time.Time // by someone
	cordonedAt     time.Time
	hook           string    // that it was cordoned for; empty: none
	began          time.Time // likewise
	lostAt         time.Time // since when the kubelet is unreachable; zero: it is reachable
	tainted        bool
	lease          *simLease
	primaryLeftAt  time.Time      // when a primary last moved, or was told to stop
	reconnectedAt  time.Time      // since when the kubelet is reachable again; zero: it was not unreachable
	completedBy    *simInvocation // the invocation that completed its action
	completedAt    time.Time
}

// simPod is one pod and its history.
type simPod struct {
	drain.Pod
	plan      podPlan
	pdb       *simPDB
	mustGo    bool         // no verdict skips it
	on        string       // the node that claims the instance too; empty: the instance's own
	evictions int          // requests
	asked     bool         // for its eviction, or whether it would be allowed
	diedOn    *simInstance // the instance on which it was killed
	overdue   bool         // it stops when its kubelet is reachable again
	paused    *simInvocation
	pausedAt  time.Time
	shutDown  bool
	heldSince time.Time      // when its escort held it first
	blockedTo *simInvocation // whose eviction its PDB refused last
	// couldNotStop says that it could not be stopped when a report last named it.
	couldNotStop             bool
	couldNotStopAtCompletion bool // likewise, when the action was completed
}

// simPDB is a PDB over an application with pods here and elsewhere.
type simPDB struct {
	plan            pdbPlan
	name            string
	healthy, needed int
}

func (s *simulation) newNode(inst *simInstance) *simNode {
	n := &simNode{name: "node-" + inst.id, instance: inst.id, pods: map[string]*simPod{}, watchers: map[*simPods]bool{}}
	for i, plan := range inst.plan.pods {
		p := &simPod{plan: plan, mustGo: !plan.daemon}
		p.Pod = drain.Pod{
			Ref:    drain.Ref{Namespace: "app", Name: fmt.Sprintf("%s-%d", inst.id, i), UID: fmt.Sprintf("%s-%d", inst.id, i)},
			Labels: map[string]string{"phase": plan.phase}, Grace: plan.grace, Controller: "ReplicaSet",
		}
		if plan.daemon {
			p.Controller = "DaemonSet"
		}
		if plan.database != nil && plan.database.primary {
			p.Labels["role"] = "primary"
		}
		if plan.held {
			p.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
		}
		if plan.pdb >= 0 && !plan.daemon {
			p.pdb = s.pdbs[plan.pdb]
			p.PDBs = []string{p.pdb.name}
			p.pdb.healthy++
			p.pdb.needed++
		}
		if i < inst.plan.claimant && !plan.daemon {
			p.on = n.claimant()
		}
		n.pods[p.Name] = p
	}
	return n
}

func (n *simNode) uid() string { return "uid-" + n.name }

// claimant is the name of the other Node object that claims the instance.
func (n *simNode) claimant() string { return n.name + "-claimant" }

// restart makes the node what it is after its warm pool: still annotated, with its pods only if it hibernated.
func (n *simNode) restart(slept bool) {
	for name, p := range n.pods {
		if !slept || p.Terminating() {
			delete(n.pods, name)
		}
	}
}

func (n *simNode) notifyWatchers() {
	for v := range n.watchers {
		select {
		case v.notify <- struct{}{}:
		default:
		}
	}
}

// stop signals a pod. It is gone in its own time, or when its grace period is over.
func (s *simulation) stop(n *simNode, p *simPod, grace time.Duration) {
	p.Deleted = time.Now()
	if isPrimary(p.Pod) {
		n.primaryLeftAt = p.Deleted
	}
	n.notifyWatchers()
	if p.pdb != nil {
		p.pdb.healthy--
		if p.pdb.plan.ready > 0 {
			s.later(p.pdb.plan.ready, func() { p.pdb.healthy++; s.changedAll() })
		}
	}
	s.later(min(p.plan.stop, grace), func() { s.stopped(n, p) })
}

// stopped removes a pod, unless its kubelet is unreachable or a finalizer keeps it.
func (s *simulation) stopped(n *simNode, p *simPod) {
	inst := s.instance(n.instance)
	switch {
	case n.pods[p.Name] != p:
		return
	case inst.failed || !n.lostAt.IsZero():
		p.overdue = true
		return
	case p.plan.finalizer != 0 && p.ContainersEndedAt.IsZero():
		s.counts["kept by a finalizer"]++
		p.ContainersEndedAt, p.Finalizers = time.Now(), []string{"example.com/keep"}
		if p.plan.finalizer > 0 {
			s.later(p.plan.finalizer, func() { s.stopped(n, p) })
		}
	default:
		delete(n.pods, p.Name)
		s.note(nil, "gone", p.Name)
		s.restartHolds(p)
	}
	n.notifyWatchers()
}

// changedAll notifies every node: each sees a PDB's change.
func (s *simulation) changedAll() {
	for _, inst := range s.instances {
		inst.node.notifyWatchers()
	}
}

// simCluster implements Kubernetes for one invocation.
type simCluster struct{ *simInvocation }

func (k simCluster) FindNodes(ctx context.Context, id string, _ EC2Instance) (found FoundNodes, err error) {
	err = k.ask(ctx, api, func() error {
		inst := k.s.instance(id)
		switch {
		case inst == nil || inst.dead:
		case inst.plan.nodeLost:
			k.s.counts["node not found"]++
		default:
			found.Nodes = []drain.Node{{Name: inst.node.name, UID: inst.node.uid(), InstanceID: id}}
			if name := inst.node.claimant(); inst.plan.claimant > 0 {
				k.s.counts["two nodes claim the instance"]++
				found.Ambiguity = "two nodes"
				found.Nodes = append(found.Nodes, drain.Node{Name: name, UID: "uid-" + name, InstanceID: id})
			}
		}
		return nil
	})
	return found, err
}

func (k simCluster) NodeByName(context.Context, string) (*drain.Node, error) {
	return nil, errors.New("not called")
}

// Cordon reads the node, saves what it is about to change, and changes it.
func (k simCluster) Cordon(ctx context.Context, of drain.Node, c Closing) (n ClosedNode, err error) {
	defer k.s.locked(func() { k.notCordoned[of.InstanceID] = err != nil })()
	err = k.ask(ctx, api, func() error {
		node := k.s.instance(of.InstanceID).node
		n = ClosedNode{
			Name: of.Name, UID: of.UID, Hook: c.Hook, Trigger: c.Trigger, Began: c.Began, CordonedAt: time.Now(),
			Unschedulable: !node.closed || c.Earlier != nil && c.Earlier.Unschedulable,
		}
		if node.closed && node.began.Equal(c.Began) {
			n.CordonedAt = node.cordonedAt
		}
		return nil
	})
	if err == nil && c.Save != nil {
		err = c.Save(ctx, n)
	}
	if err != nil {
		return ClosedNode{}, err
	}
	err = k.effect(ctx, api, "cordon", of.Name, func() error {
		inst := k.s.instance(of.InstanceID)
		if k.s.cordonDenied {
			k.s.counts["cordon denied"]++
			return &drain.Refused{Reason: "no cordon on Fridays"}
		}
		node := inst.node
		k.checkNoPrimary(inst, of.Name)
		k.checkCordon(inst, of.Name, of.Name == node.name && node.closed || of.Name != node.name && node.claimantClosed)
		if of.Name != node.name {
			node.claimantClosed = true
			return nil
		}
		node.closed, node.hook, node.began, node.cordonedAt = true, c.Hook, c.Began, n.CordonedAt
		return nil
	})
	return n, err
}

func (k simCluster) TaintTerminating(ctx context.Context, others []drain.Node) (err error) {
	for _, other := range others {
		err = errors.Join(err, k.effect(ctx, api, "taint", other.InstanceID, func() error {
			if inst := k.s.instance(other.InstanceID); inst != nil && !inst.dead {
				k.checkWrite(inst, "tainted")
				inst.node.tainted = true
			}
			return nil
		}))
	}
	return err
}

func (k simCluster) Restore(ctx context.Context, of drain.Node, closed *ClosedNode) error {
	return k.effect(ctx, api, "restore", of.InstanceID, func() error {
		inst := k.s.instance(of.InstanceID)
		inst.node.tainted = false
		if closed != nil && closed.UID == "uid-"+inst.node.claimant() {
			inst.node.claimantClosed = false
		}
		if closed == nil || closed.UID != inst.node.uid() {
			return nil
		}
		k.checkRestore(inst)
		if closed.Unschedulable {
			inst.node.closed, inst.node.hook = false, ""
		}
		return nil
	})
}

// RecordEvent takes time and may fail, as every request.
func (k simCluster) RecordEvent(ctx context.Context, _ drain.Node, _ NodeEvent) error {
	return k.ask(ctx, api, func() error { return nil })
}

// RecordPodEvent takes time and may fail, as every request. The API server keeps one event of each name.
func (k simCluster) RecordPodEvent(ctx context.Context, e drain.PodEvent) error {
	return k.ask(ctx, api, func() error {
		k.checkPodEvent(e)
		return nil
	})
}

func (k simCluster) AwaitDetached(ctx context.Context, of drain.Node, _ []drain.Pod) (int, error) {
	err := k.ask(ctx, api, func() error { k.checkOrder(k.s.instance(of.InstanceID), stepVolumes); return nil })
	return 0, errors.Join(err, drain.Sleep(ctx, k.s.detach))
}

func (k simCluster) PDBs(context.Context, []drain.Pod) ([]drain.PDB, error) { return nil, nil }

// simPods implements drain.Cluster for the watched node.
type simPods struct {
	simCluster
	instance *simInstance
	on       string // as of a pod
	notify   chan struct{}
}

func (k simCluster) WatchPods(ctx context.Context, of drain.Node, _ drain.Effort) (drain.Cluster, error) {
	v := &simPods{k, nil, "", make(chan struct{}, 1)}
	err := k.ask(ctx, api, func() error {
		v.instance = k.s.instance(of.InstanceID)
		if of.Name != v.instance.node.name {
			v.on = of.Name
		}
		v.instance.node.watchers[v] = true
		return nil
	})
	context.AfterFunc(ctx, k.s.locked(func() {
		if v.instance != nil {
			delete(v.instance.node.watchers, v)
		}
	}))
	return v, err
}

func (v *simPods) Pods() (pods []drain.Pod) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, p := range v.instance.node.pods {
		if p.on == v.on {
			pods = append(pods, p.Pod)
		}
	}
	return pods
}

func (v *simPods) Node() drain.NodeState {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	n := v.instance.node
	return drain.NodeState{Unreachable: !n.lostAt.IsZero(), Uncordoned: v.on == "" && !n.closed || v.on != "" && !n.claimantClosed}
}

func (v *simPods) FinishedPods() int { return 0 }

func (v *simPods) Changed() <-chan struct{} { return v.notify }

func (v *simPods) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if o.DryRun {
		return v.ask(ctx, api, func() error {
			p := v.instance.node.pods[ref.Name]
			if p != nil {
				p.asked = true
			}
			return v.refusal(p)
		})
	}
	return v.effect(ctx, api, "evict", ref.Name, func() error {
		p := v.instance.node.pods[ref.Name]
		v.checkEvict(v.instance, p)
		if p != nil && p.plan.database != nil && o.Grace > 0 && o.Grace < p.Grace {
			v.s.violate("%s: evicted %s with %s of its %s", v.name, p.Name, o.Grace, p.Grace)
		}
		if p == nil || p.Terminating() {
			return nil
		}
		p.evictions++
		p.asked = true
		if err := v.refusal(p); err != nil {
			return err
		}
		v.s.stop(v.instance.node, p, cmp.Or(o.Grace, p.Grace))
		return nil
	})
}

// refusal returns the answer of a webhook, or of the pod's PDB; nil: they allow a disruption.
func (v *simPods) refusal(p *simPod) error {
	if p != nil && !p.Terminating() && time.Since(v.s.began) < p.plan.refused {
		v.s.counts["eviction refused by a webhook"]++
		return &drain.Refused{Reason: `admission webhook "pods" denied the request`}
	}
	if p == nil || p.Terminating() || p.pdb == nil || p.pdb.healthy > p.pdb.needed {
		return nil
	}
	p.blockedTo = v.simInvocation
	return &drain.Blocked{PDBs: []string{p.pdb.name}, Reason: "no disruption allowed"}
}

func (v *simPods) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	return v.effect(ctx, api, "delete", ref.Name, func() error {
		p := v.instance.node.pods[ref.Name]
		v.checkDelete(v.instance, p, grace)
		if p != nil && !p.Terminating() {
			v.s.stop(v.instance.node, p, grace)
		}
		return nil
	})
}
