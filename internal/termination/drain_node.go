package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// askTimeout bounds each question and each step that only helps. The SDK repeats a request that failed within it. Longer would delay the
// first eviction for the sake of a help.
const askTimeout = 5 * time.Second

// joinPace paces the search for a node that is still joining. Joining takes seconds, and each search may list all nodes.
const joinPace = 2 * time.Second

// newInstanceAge is the age up to which an instance may never have had a node: it is terminated while it still starts. Groups give new
// instances five minutes before they count as unhealthy, and node groups join within two.
const newInstanceAge = 10 * time.Minute

// isNew reports whether the instance may not have joined yet.
func (i EC2Instance) isNew() bool {
	return !i.LaunchedAt.IsZero() && time.Since(i.LaunchedAt) < newInstanceAge
}

const (
	// daemonShutdownTime bounds shutting down a node's DaemonSet pods when the deadline is reached. Transactions are short, and a whole
	// group that scales in waits for this.
	daemonShutdownTime = 10 * time.Second
	// daemonShutdownShare bounds it by this part of the reserve. The rest is for completing the action.
	daemonShutdownShare = 2
	// daemonTransactionTime is what an invocation must have left for shutting down DaemonSet pods, or half of what it had if that is less.
	// A pooler waits so long for transactions by default. With less the next invocation does it, which takes a second or two more.
	daemonTransactionTime = 2 * time.Minute
)

// awaitNodes finds the nodes that claim the instance, and waits for one that is still joining, but not past the deadline. It returns none
// if there is none. The one that EC2 confirms is the first. While EC2 has not answered it is asked again: some nodes are found only by the
// name and the address that it tells.
func (j *job) awaitNodes(ctx context.Context, cluster Kubernetes) ([]drain.Node, error) {
	until := time.Now().Add(j.Policy.Bounds.NodeJoinTimeout)
	for {
		known := j.asked.instance()
		found, err := j.findNodes(ctx, cluster, known.EC2Instance)
		switch {
		case err != nil:
			return nil, err
		case len(found.Nodes) > 0:
			j.noteAmbiguity(found)
			for i := range found.Nodes {
				found.Nodes[i].Gone = known.Terminated
			}
			j.report.Node = found.Nodes[0].Name
			j.log = j.nodeLog(j.report.Node)
			return found.Nodes, nil
		case known.Terminated || !time.Now().Before(until):
			j.noteAmbiguity(found)
			return nil, j.withoutAnswer(known)
		}
		if err := drain.Sleep(ctx, min(joinPace, time.Until(until))); errors.Is(err, errDeadlineReached) {
			return nil, j.withoutAnswer(known)
		} else if err != nil {
			return nil, fmt.Errorf("find the node of %s: %w", j.InstanceID, err)
		}
		if known.err != nil {
			j.asked.instance = nil
			j.askInstance(ctx)
		}
	}
}

// withoutAnswer returns why it is not certain that the instance has no node; nil: it is.
func (j *job) withoutAnswer(known answeredInstance) error {
	if known.err == nil {
		return nil
	}
	return fmt.Errorf("find the node of %s: EC2 did not answer: %w", j.InstanceID, known.err)
}

// noteAmbiguity says that it is not certain which node is the instance's.
func (j *job) noteAmbiguity(found FoundNodes) {
	if found.Ambiguity == "" {
		return
	}
	j.log.Warn("not certain which node is the instance's", "reason", found.Ambiguity)
	j.notes = append(j.notes, found.Ambiguity)
}

// withoutNode ends the drain of an instance that has no node in the cluster. It is remarkable if the instance had been in service: then
// its node is in another cluster, or names another instance.
func (j *job) withoutNode(instance Instance, known EC2Instance) Result {
	wasFound := j.lease != nil && len(j.lease.Closed()) > 0 // by an earlier invocation
	j.wasInService = !instance.isWarm() && !known.Terminated && !known.isNew() && !wasFound
	j.end(StatusNodeNotFound, "the instance has no node in the cluster")
	if j.wasInService {
		j.log.Warn("instance has no node in the cluster")
	}
	return Continue
}

// taintTerminatingPeers keeps evicted pods off the nodes that terminate next. It precedes the first eviction. If it fails, those pods
// move twice, and nothing worse.
func (j *job) taintTerminatingPeers(ctx context.Context, cluster Kubernetes) {
	others := j.asked.peers()
	if len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := cluster.TaintTerminating(ctx, others); err != nil {
		j.log.Warn("failed to taint terminating peers", "error", err.Error())
	}
}

// isTooLateForDaemons reports whether the invocation ends too soon to shut down what DaemonSets run, and the next one has twice the time for
// it. A manual drain has no next one.
func (j *job) isTooLateForDaemons(invocation context.Context) bool {
	end, limited := invocation.Deadline()
	if !limited || j.Hook == "" && j.Trigger == "" {
		return false
	}
	whole, left := end.Sub(j.report.StartedAt), time.Until(end)
	next := min(whole, j.clock.presentDeadline().Sub(end))
	if j.volumesStay { // the next one waits for them again
		next -= j.Policy.Bounds.VolumeDetachTimeout
	}
	if left >= min(daemonTransactionTime, whole/2) || left >= next/2 {
		return false
	}
	return slices.ContainsFunc(j.drains, func(d *nodeDrain) bool {
		return !d.isReplaced() && d.drainer.HasDaemons(d.pods.Pods(), d.node)
	})
}

// shutDownDaemons shuts down what DaemonSets run on the nodes, before the instance is terminated. It may take a share of the reserve. The pods
// of a node that is not the instance's any more are not ours.
func (j *job) shutDownDaemons(invocation context.Context) {
	ctx, cancel := j.clock.withDaemonTime(invocation)
	defer cancel()
	j.eachDrain(func(_ int, d *nodeDrain) {
		if d.isReplaced() {
			return
		}
		drainer := d.drainer
		drainer.Log, drainer.Limits.MaxWait = d.log, j.clock.currentMaxWait()
		drainer.ShutDownDaemons(ctx, d.pods.Pods(), d.node, &d.report)
	})
}

// awaitVolumes waits for the volumes of pods that are gone. A volume that is still attached when its instance is
// terminated delays the pod's successor by six minutes (the attach-detach controller's own wait). It does not keep the instance any
// longer. It reports whether the drain of a node has something to do again.
func (j *job) awaitVolumes(ctx context.Context) (work bool) {
	wereUnreachable := map[*nodeDrain]bool{}
	for _, d := range j.drains {
		wereUnreachable[d] = d.pods.Node().Unreachable
	}
	ctx, cancel := context.WithTimeout(ctx, j.clock.timeLeft(j.Policy.Bounds.VolumeDetachTimeout))
	defer cancel()
	j.volumesStay = false
	for _, d := range j.drains {
		detached, err := d.cluster.AwaitDetached(ctx, d.node, d.pods.Pods())
		if err != nil {
			j.volumesStay = true
			d.log.Warn("volumes still attached", "error", err.Error())
		} else if detached > 0 {
			d.log.Info("volumes detached", "volumes", detached)
		}
	}
	return slices.ContainsFunc(j.drains, func(d *nodeDrain) bool { return d.hasWork(wereUnreachable[d]) })
}

// outOfTime ends a step without which no pod can be reached, and distinguishes why. If the deadline was reached, the drain has failed, and
// the operator's onFailure decides. If the invocation ended, the next one continues. Any other error is retried, but not long after the
// deadline.
func (j *job) outOfTime(ctx context.Context, err error) (Result, error) {
	result := j.Policy.OnFailure
	if j.keptOpen {
		result = leftOpen
	}
	switch cause := context.Cause(ctx); {
	case (errors.Is(cause, errDeadlineReached) || cause == nil && j.clock.isLongOver()) && j.keepRecordedOpen():
		return "", j.failed(fmt.Errorf("%w; %s", err, recordedReason))
	case errors.Is(cause, errDeadlineReached):
		j.end(StatusFailed, fmt.Sprintf("%v: %v", cause, err))
		return result, nil
	case cause != nil:
		j.end(StatusIncomplete, fmt.Sprintf("%v: %v", cause, err))
		return "", &Incomplete{j.report}
	case j.clock.isLongOver():
		j.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, err))
		return result, nil
	}
	return "", j.failed(err)
}
