package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

const (
	// minCordonAge is how long ago a node must have been cordoned before an instance in service counts as returned: no description lags
	// that much.
	minCordonAge = 2 * time.Minute
	// untrueInterruptionAge is after how long a Spot interruption was not true if its instance is still in service. EC2 reclaims within
	// two minutes; the rest is for a reclaim that Auto Scaling learns of late. A node that is closed in vain costs capacity meanwhile.
	untrueInterruptionAge = 10 * time.Minute
)

// isRestorable reports whether a node that was closed for this reason is to be opened again if its instance is in service. A node that
// was closed by hand, or for a rebalance recommendation, stays closed.
func (p Policy) isRestorable(n ClosedNode) bool {
	age := time.Since(n.CordonedAt)
	switch {
	case n.Trigger == SpotInterruption:
		return age >= untrueInterruptionAge
	case n.Trigger != "" || n.Hook == "":
		return false
	}
	return n.Hook == p.Hook && age >= minCordonAge
}

// restore undoes on nodes what an earlier termination changed, if the instance is in service after all. For example, it returned from
// a warm pool. What was changed is read from the Lease. Without one nothing but the taint is removed: the event may be forged. While another
// invocation drains the node, such as for a rebalance recommendation, all of it is that one's. So it is of a node that stays closed.
func (j *job) restore(ctx context.Context, instance Instance) error {
	if instance.State != inService || j.Policy.Shadow {
		return nil
	}
	cluster, err := j.Connect(ctx)
	if err != nil {
		return j.failed(err)
	}
	leases, err := cluster.Leases(ctx)
	if err != nil {
		return j.failed(err)
	}
	if slices.ContainsFunc(leases, func(l LeaseInfo) bool { return l.Name == j.InstanceID && l.Held }) {
		return nil
	}
	staysClosed := false
	for _, l := range leases {
		if l.Name != j.InstanceID {
			continue
		}
		for _, n := range l.Closed {
			if !j.Policy.isRestorable(n) {
				staysClosed = true
				continue
			}
			_, restored := j.restoreReturned(ctx, cluster, n)
			err = errors.Join(err, restored)
		}
	}
	if !staysClosed {
		err = errors.Join(err, j.removeTaint(ctx, cluster))
	}
	if err != nil {
		return j.failed(err)
	}
	return nil
}

// removeTaint removes the taint that a drain of a peer left on the node.
func (j *job) removeTaint(ctx context.Context, cluster Kubernetes) error {
	known, _ := j.Groups.EC2Instances(ctx, j.InstanceID) // the node can be found without
	node, err := j.findFirstNode(ctx, cluster, known[j.InstanceID])
	if node == nil || err != nil {
		return err
	}
	return cluster.Restore(ctx, *node, nil)
}

// restoreReturned restores a node whose instance returned to service, under the Lease. A termination that begins now has to close the
// node again. What is restored is what the Lease says, once it is held. Restored reports whether the node was opened.
func (j *job) restoreReturned(ctx context.Context, cluster Kubernetes, n ClosedNode) (restored bool, err error) {
	lease, err := cluster.AcquireLease(ctx, j.InstanceID, Acquisition{Shorten: j.clock.shorten})
	if err != nil || lease == nil {
		return false, err
	}
	j.lease, j.drainer.Records = lease, lease
	defer j.releaseLease()
	instance, err := j.Groups.Instance(ctx, j.InstanceID)
	if err != nil {
		return false, err
	}
	node := drain.Node{Name: n.Name, UID: n.UID, InstanceID: j.InstanceID}
	switch {
	case instance.State == inService:
		return j.restoreNode(ctx, cluster, lease, node)
	case instance.isRetained(): // the node stays closed, but no pooler stays paused
		return false, j.undoEscorts(ctx, cluster, node)
	}
	return false, nil
}

// restoreNode undoes what the Lease says of the node, and removes that from the Lease.
func (j *job) restoreNode(ctx context.Context, cluster Kubernetes, lease Lease, node drain.Node) (restored bool, err error) {
	closed := lease.Closed()
	i := slices.IndexFunc(closed, func(n ClosedNode) bool { return n.UID == node.UID })
	if i < 0 {
		return false, nil // another invocation has restored it
	}
	if err = cluster.Restore(ctx, node, &closed[i]); err == nil {
		err = lease.ForgetClosed(ctx, node.UID)
	}
	err = errors.Join(err, j.undoEscorts(ctx, cluster, node))
	return err == nil, err
}

// undoEscorts undoes what escorts changed on the pods of a node that stays.
func (j *job) undoEscorts(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	if !j.drainer.HasEscorts() {
		return nil
	}
	pods, err := readPods(ctx, cluster, node)
	if err != nil {
		return err
	}
	return j.undoEscortsOf(ctx, pods, node)
}

// readPods returns the pods of a node.
func readPods(ctx context.Context, cluster Kubernetes, node drain.Node) ([]drain.Pod, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched, err := cluster.WatchPods(ctx, node, drain.EffortFull)
	if err != nil {
		return nil, fmt.Errorf("read the pods of node %s: %w", node.Name, err)
	}
	return watched.Pods(), nil
}

// undoEscortsOf undoes what escorts changed on these pods of a node.
func (j *job) undoEscortsOf(ctx context.Context, pods []drain.Pod, node drain.Node) error {
	drainer := j.drainer
	drainer.Log = j.nodeLog(node.Name)
	return drainer.UndoEscorts(ctx, pods, node)
}
