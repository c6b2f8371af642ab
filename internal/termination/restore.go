package termination

import (
	"context"
	"errors"
	"slices"

	"quiesce/internal/drain"
)

// restore undoes on a node what an earlier termination changed, if the instance is in service after all. For example, it returned from
// a warm pool.
func (j *job) restore(ctx context.Context, instances []Instance) error {
	instance := instanceOf(instances, j.InstanceID)
	if instance.State != inService || j.Policy.Shadow {
		return nil
	}
	cluster, err := j.Connect(ctx)
	if err != nil {
		return j.failed(err)
	}
	known, _ := j.Groups.EC2Instances(ctx, j.InstanceID) // the node can be found without
	node, err := cluster.FindNode(ctx, j.InstanceID, known[j.InstanceID].PrivateDNS, instance.Zone)
	if err == nil && node != nil {
		err = j.restoreNode(ctx, cluster, *node)
	}
	if err != nil {
		return j.failed(err)
	}
	return nil
}

// restoreNode does not uncordon a node that was closed for a trigger, or by hand.
func (j *job) restoreNode(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	ours, err := cluster.Restore(ctx, node, j.Hook)
	if err != nil || !ours || !j.drainer.HasEscorts() {
		return err
	}
	return j.undoRecorded(ctx, cluster, node)
}

// undoRecorded undoes what escorts recorded on a Lease that is free. Without such a Lease nothing is written: the event may be forged.
func (j *job) undoRecorded(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	leases, err := cluster.Leases(ctx)
	if err != nil || !slices.Contains(leases, LeaseInfo{Name: j.InstanceID}) {
		return err
	}
	lease, err := cluster.AcquireLease(ctx, j.InstanceID, j.clock.shorten)
	if err != nil || lease == nil {
		return err
	}
	j.drainer.Records = lease
	defer j.releaseLease(lease)
	return j.undoEscorts(ctx, cluster, node)
}

// restoreReturned restores a node whose instance returned to service, under the Lease. A termination that begins now has to close the
// node again. Restored reports whether the node was uncordoned.
func (j *job) restoreReturned(ctx context.Context, cluster Kubernetes, n CordonedNode) (restored bool, err error) {
	lease, err := cluster.AcquireLease(ctx, j.InstanceID, j.clock.shorten)
	if err != nil || lease == nil {
		return false, err
	}
	j.drainer.Records = lease
	defer j.releaseLease(lease)
	instances, err := j.Groups.Instances(ctx, j.Group)
	if err != nil {
		return false, err
	}
	switch instanceOf(instances, j.InstanceID).State {
	case inService:
		restored, err = cluster.Restore(ctx, n.Node, n.Hook)
		err = errors.Join(err, j.undoEscorts(ctx, cluster, n.Node))
		return restored && err == nil, err
	case retained: // the node stays closed, but no pooler stays paused
		return false, j.undoEscorts(ctx, cluster, n.Node)
	}
	return false, nil
}

// undoEscorts undoes what escorts changed on the pods of a node that stays.
func (j *job) undoEscorts(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	if !j.drainer.HasEscorts() {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pods, err := cluster.WatchPods(ctx, node)
	if err != nil {
		return err
	}
	drainer := j.drainer
	drainer.Log = j.log.With("node", node.Name)
	return drainer.UndoEscorts(ctx, pods.Pods(), node)
}
