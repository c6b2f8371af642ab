package termination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

// joinPace paces the search for a node that is still joining. Joining takes seconds, and each search may list all nodes.
const joinPace = 2 * time.Second

const (
	// daemonShutdownTime bounds shutting down a node's DaemonSet pods when the deadline is reached. Transactions are short, and a whole
	// group that scales in waits for this.
	daemonShutdownTime = 10 * time.Second
	// daemonShutdownShare bounds it by this part of the reserve. The rest is for completing the action.
	daemonShutdownShare = 2
)

// describeInstances asks EC2 about our instance and its terminating peers. Without an answer the nodes are searched instead, so an
// error is only logged.
func (j *job) describeInstances(ctx context.Context, instances []Instance) map[string]EC2Instance {
	ids := []string{j.InstanceID}
	for _, i := range terminatingPeers(instances, j.InstanceID) {
		ids = append(ids, i.ID)
	}
	known, err := j.Groups.EC2Instances(ctx, ids...)
	if err != nil {
		j.log.Warn("DescribeInstances failed, searching nodes instead", "error", err.Error())
	}
	return known
}

// awaitNode finds the node, and waits for one that is still joining. It returns nil if there is none.
func (j *job) awaitNode(ctx context.Context, cluster Kubernetes, instance Instance, known EC2Instance) (*drain.Node, error) {
	until := time.Now().Add(j.Policy.Bounds.NodeJoinTimeout)
	for {
		node, err := cluster.FindNode(ctx, instance.ID, known.PrivateDNS, instance.Zone)
		switch {
		case err != nil:
			return nil, err
		case node != nil:
			node.Gone = known.Terminated
			j.report.Node = node.Name
			j.log = j.log.With("node", node.Name)
			return node, nil
		case known.Terminated || !time.Now().Before(until):
			return nil, nil
		}
		if err := pause(ctx, min(joinPace, time.Until(until))); err != nil {
			return nil, fmt.Errorf("find the node of %s: %w", instance.ID, err)
		}
	}
}

// cordon closes the node to new pods.
func (j *job) cordon(ctx context.Context, cluster Kubernetes, node *drain.Node) (err error) {
	if node.Cordoned, err = cluster.Cordon(ctx, *node, j.Hook, j.Began); err == nil {
		j.log.Info("node cordoned")
	}
	return err
}

// taintTerminatingPeers keeps evicted pods off the nodes that terminate next. It precedes the first eviction. If it fails, those pods
// move twice, and nothing worse.
func (j *job) taintTerminatingPeers(ctx context.Context, cluster Kubernetes, instances []Instance, known map[string]EC2Instance) {
	var others []drain.Node
	for _, i := range terminatingPeers(instances, j.InstanceID) {
		others = append(others, drain.Node{Name: known[i.ID].PrivateDNS, InstanceID: i.ID})
	}
	if len(others) == 0 {
		return
	}
	if err := cluster.TaintTerminating(ctx, others); err != nil {
		j.log.Warn("failed to taint terminating peers", "error", err.Error())
	}
}

// evict evicts the node's pods phase by phase. If a Spot interruption shortens the deadline meanwhile, it continues under the new one.
// It returns the cause that ended the drain's time, if it has ended.
func (j *job) evict(ctx context.Context, pods drain.Cluster, node drain.Node) (cause error) {
	deadline := j.clock.deadline()
	for {
		limits, bounded, stop := j.clock.startEvicting(ctx, j.Began)
		if limits.Deadline.Before(deadline) {
			j.log.Warn("Spot interruption: deadline shortened", "deadline", limits.Deadline, "was", deadline)
			deadline = limits.Deadline
		}
		limits.Force = j.Policy.Force
		drainer := j.drainer
		drainer.Log, drainer.Limits = j.log, limits
		j.report.Report, j.state = drainer.Resume(bounded, pods, node, j.state)
		cause = context.Cause(bounded)
		if stop(); !errors.Is(cause, errDeadlineShortened) {
			return cause
		}
	}
}

// shutDownDaemons shuts down what DaemonSets run on the node, before the instance is terminated. It may take a share of the reserve.
func (j *job) shutDownDaemons(invocation context.Context, pods drain.Cluster, node drain.Node) {
	ctx, cancel := j.clock.withDaemonTime(invocation)
	defer cancel()
	drainer := j.drainer
	drainer.Log, drainer.Limits.MaxWait = j.log, j.clock.currentMaxWait()
	drainer.ShutDownDaemons(ctx, pods.Pods(), node, &j.report.Report)
}

// awaitVolumes waits for the volumes of evicted pods. A volume that is still attached when its instance is terminated delays the pod's
// successor by six minutes (the attach-detach controller's own wait). It does not keep the instance any longer.
func (j *job) awaitVolumes(ctx context.Context, cluster Kubernetes, node drain.Node) {
	claims := j.state.Claims()
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, j.clock.timeLeft(j.Policy.Bounds.VolumeDetachTimeout))
	defer cancel()
	if err := cluster.AwaitDetached(ctx, node, claims); err != nil {
		j.log.Warn("volumes still attached", "error", err.Error())
		return
	}
	j.log.Info("volumes detached", "claims", len(claims))
}

// outOfTime ends a step that failed, and distinguishes why. If the deadline was reached, the drain has failed, and the operator's
// onFailure decides. If the invocation ended, the next one continues. Any other error is retried, but not long after the deadline.
func (j *job) outOfTime(ctx context.Context, err error) (Result, error) {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDeadlineReached):
		j.end(StatusFailed, fmt.Sprintf("%v: %v", cause, err))
		return j.Policy.OnFailure, nil
	case cause != nil:
		j.end(StatusIncomplete, fmt.Sprintf("%v: %v", cause, err))
		return "", &Incomplete{j.report}
	case j.clock.isLongOver():
		j.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, err))
		return j.Policy.OnFailure, nil
	}
	return "", j.failed(err)
}
