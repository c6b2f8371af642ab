package termination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

// joinPace paces the look for a node that is still joining: it is a matter of seconds, and each look may be a search.
const joinPace = 2 * time.Second

const (
	// daemonShutdownTime is what the farewells to a node's DaemonSets may take when the deadline has come: transactions are short, and
	// what waits for them is all of a group that scales in.
	daemonShutdownTime = 10 * time.Second
	// daemonShutdownShare: and never more than this part of the reserve, the rest of which is for completing the action.
	daemonShutdownShare = 2
)

// drainNode finds the instance's node, closes it and drains it, and tells what the lifecycle action is to be completed with.
func (w *job) drainNode(ctx context.Context, k Kubernetes, all []Instance) (Result, error) {
	machines := w.describeInstances(ctx, all)
	node, err := w.awaitNode(ctx, k, instanceOf(all, w.InstanceID), machines[w.InstanceID])
	if err != nil {
		return w.outOfTime(ctx, err)
	}
	if node == nil {
		w.end(StatusDrained, "the instance has no node in the cluster")
		return Continue, nil
	}
	node.Gone = machines[w.InstanceID].Terminated
	w.report.Node = node.Name
	w.log = w.log.With("node", node.Name)
	if node.Cordoned, err = k.Cordon(ctx, *node, w.Hook, w.Began); err != nil {
		return w.outOfTime(ctx, err)
	}
	w.log.Info("node cordoned")
	w.recordStart(ctx, k, *node)
	w.taintTerminatingPeers(ctx, k, all, machines)
	return w.drain(ctx, k, *node)
}

// outOfTime tells a step that was cut short by the clock from one that went wrong. One that could not be done by the deadline
// is a drain that failed: what the instance is worth then is the operator's to say.
func (w *job) outOfTime(ctx context.Context, err error) (Result, error) {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDeadlineReached):
		w.end(StatusFailed, fmt.Sprintf("%v: %v", cause, err))
		return w.Policy.OnFailure, nil
	case cause != nil:
		w.end(StatusIncomplete, fmt.Sprintf("%v: %v", cause, err))
		return "", &Incomplete{w.report}
	case !w.due.IsZero() && time.Since(w.due) > lateRetryTime:
		w.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, err))
		return w.Policy.OnFailure, nil
	}
	return "", w.failed(err)
}

// describeInstances asks EC2 about our instance and the others of its wave. Without an answer nodes are searched for instead, so that
// a refusal is worth a line and no more.
func (w *job) describeInstances(ctx context.Context, all []Instance) map[string]EC2Instance {
	ids := []string{w.InstanceID}
	for _, i := range terminatingPeers(all, w.InstanceID) {
		ids = append(ids, i.ID)
	}
	machines, err := w.Groups.EC2Instances(ctx, ids...)
	if err != nil {
		w.log.Warn("EC2 was of no help", "error", err.Error())
	}
	return machines
}

// awaitNode finds the node, and gives one that is still joining a while to appear.
func (w *job) awaitNode(ctx context.Context, k Kubernetes, instance Instance, machine EC2Instance) (*drain.Node, error) {
	patience := time.Now().Add(w.Policy.Bounds.NodeJoinTimeout)
	for {
		node, err := k.FindNode(ctx, instance.ID, machine.PrivateDNS, instance.Zone)
		if node != nil || err != nil || machine.Terminated || !time.Now().Before(patience) {
			return node, err
		}
		if err := pause(ctx, min(joinPace, time.Until(patience))); err != nil {
			return nil, fmt.Errorf("find the node of %s: %w", instance.ID, err)
		}
	}
}

// taintTerminatingPeers keeps evicted pods from landing on the next victim. It is done before the first eviction, and no reason to fail: at
// worst those pods move twice.
func (w *job) taintTerminatingPeers(ctx context.Context, k Kubernetes, all []Instance, machines map[string]EC2Instance) {
	var others []drain.Node
	for _, i := range terminatingPeers(all, w.InstanceID) {
		others = append(others, drain.Node{Name: machines[i.ID].PrivateDNS, InstanceID: i.ID})
	}
	if len(others) == 0 {
		return
	}
	if err := k.TaintTerminating(ctx, others); err != nil {
		w.log.Warn("other terminating nodes were not tainted", "error", err.Error())
	}
}

func (w *job) drain(ctx context.Context, k Kubernetes, node drain.Node) (Result, error) {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	cluster, err := k.WatchPods(watch, node)
	if err != nil {
		return w.outOfTime(ctx, err)
	}
	cause := w.evict(ctx, cluster, node)
	remain := len(w.report.Remaining()) > 0
	if remain && !errors.Is(cause, errDeadlineReached) {
		w.end(StatusIncomplete, cause.Error())
		return "", &Incomplete{w.report}
	}
	w.shutDownDaemons(ctx, cluster, node)
	if remain {
		w.report.CloseRemaining(cause.Error())
		w.end(w.report.status(), cause.Error())
		return Continue, nil
	}
	w.awaitVolumes(ctx, k, node)
	w.end(w.report.status(), "")
	return Continue, nil
}

// shutDownDaemons sees out what DaemonSets run on the node: empty or not, it is let go now. It may take a share of the reserve.
func (w *job) shutDownDaemons(ctx context.Context, cluster drain.Cluster, node drain.Node) {
	end := time.Now()
	if end.Before(w.report.Deadline) {
		end = w.report.Deadline
	}
	end = end.Add(min(daemonShutdownTime, w.Policy.Bounds.CompletionReserve/daemonShutdownShare))
	if !w.ends.IsZero() && w.ends.Before(end) {
		end = w.ends
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), end)
	defer cancel()
	drainer := w.drainer
	drainer.Log, drainer.Limits.MaxWait = w.log, w.maxWait
	drainer.ShutDownDaemons(ctx, cluster.Pods(), node, &w.report.Report)
}

// awaitVolumes waits for the disks of evicted pods. A disk that is still attached when its instance goes costs the pod's successor
// six minutes (the attach-detach controller's own wait); it is no reason to keep the instance for ever.
func (w *job) awaitVolumes(ctx context.Context, k Kubernetes, node drain.Node) {
	claims := w.report.Claims()
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(w.Policy.Bounds.VolumeDetachTimeout, time.Until(w.report.Deadline)))
	defer cancel()
	if err := k.AwaitDetached(ctx, node, claims); err != nil {
		w.log.Warn("volumes are still attached", "error", err.Error())
		return
	}
	w.log.Info("volumes detached", "claims", len(claims))
}
