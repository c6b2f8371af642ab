package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// ErrLeaseHeld is the error about a Lease that another invocation holds.
var ErrLeaseHeld = errors.New("another invocation holds the lease")

// UndoEscorts undoes what escorts recorded on the Lease of an instance, and returns the pods. It asks nothing of AWS, so that a person can
// do it when no function does. Nodes stay closed. The drain may continue, so it stays recorded which pods have the only copy of their data:
// an invocation that cannot look at the pods would complete the action without.
func (h *Handler) UndoEscorts(ctx context.Context, l LeaseInfo) (undone []string, err error) {
	return h.undoRecords(ctx, l, drain.SaysOnlyCopy)
}

// undoRecords undoes what escorts recorded on the Lease of an instance, except for records that stay.
func (h *Handler) undoRecords(ctx context.Context, l LeaseInfo, stays func(record string) bool) (undone []string, err error) {
	cluster, err := h.Connect(ctx)
	if err != nil {
		return nil, err
	}
	lease, err := cluster.AcquireLease(ctx, l.Name, Acquisition{})
	if err != nil {
		return nil, err
	}
	if lease == nil {
		return nil, ErrLeaseHeld
	}
	defer func() { err = errors.Join(err, lease.Release(KeepAll)) }()
	j := h.newJob(Termination{InstanceID: l.Name, Hook: h.Policy.Hook, Began: time.Now()})
	j.lease, j.drainer.Records = lease, lease
	nodes, err := j.closedOrFound(ctx, cluster, l)
	here := map[string]bool{}
	for _, node := range nodes {
		pods, failure := readPods(ctx, cluster, node)
		for _, p := range pods {
			here[p.UID] = true
		}
		pods = slices.DeleteFunc(pods, func(p drain.Pod) bool { return stays(lease.Record(drain.EscortRecord + p.UID)) })
		if failure == nil {
			var of []string
			of, failure = j.undoRecorded(ctx, pods, node)
			undone = append(undone, of...)
		}
		err = errors.Join(err, failure)
	}
	if err != nil || len(nodes) == 0 {
		return undone, err
	}
	for _, uid := range l.Escorted { // of a pod that is gone nothing can be undone
		if !here[uid] && lease.Record(drain.EscortRecord+uid) != "" {
			err = errors.Join(err, lease.SetRecord(ctx, drain.EscortRecord+uid, ""))
		}
	}
	return undone, err
}

// closedOrFound returns the nodes that the Lease says are closed. Without one, they are those that claim the instance: a cordon may have
// been denied.
func (j *job) closedOrFound(ctx context.Context, cluster Kubernetes, l LeaseInfo) (nodes []drain.Node, err error) {
	for _, n := range l.Closed {
		nodes = append(nodes, drain.Node{Name: n.Name, UID: n.UID, InstanceID: l.Name})
	}
	if len(nodes) > 0 {
		return nodes, nil
	}
	found, err := cluster.FindNodes(ctx, l.Name, EC2Instance{})
	return found.Nodes, err
}

// undoRecorded undoes what escorts changed on the pods of a node, and returns those whose record is gone. It fails if a record remains, except
// of a pod that is terminating: nothing is undone there.
func (j *job) undoRecorded(ctx context.Context, pods []drain.Pod, node drain.Node) (undone []string, err error) {
	isRecorded := func(p drain.Pod) bool { return j.lease.Record(drain.EscortRecord+p.UID) != "" }
	before := slices.DeleteFunc(slices.Clone(pods), func(p drain.Pod) bool { return p.Terminating() || !isRecorded(p) })
	err = j.undoEscortsOf(ctx, pods, node)
	var unknown []error
	for _, p := range before {
		if !isRecorded(p) {
			undone = append(undone, p.String())
		} else if err == nil {
			unknown = append(unknown, fmt.Errorf("no phase of the configuration has the escort of pod %s", p))
		}
	}
	return undone, errors.Join(append(unknown, err)...)
}
