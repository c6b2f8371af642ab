package termination

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

const (
	// confirmTime is for how long EC2 is asked whether a Spot interruption is true: its event may be faster than its description.
	confirmTime = 10 * time.Second
	// confirmPace paces the requests in that time.
	confirmPace = 2 * time.Second
)

// runInterruption drains for a trigger: the same drain with another clock. No lifecycle action waits, so there is nothing to complete.
func (j *job) runInterruption(ctx context.Context) error {
	invocation, cancel := j.boundInvocation(ctx)
	defer cancel()
	instance, err := j.findGroup(invocation)
	if err != nil {
		return j.failed(err)
	}
	switch owned, err := j.isOurs(invocation); {
	case err != nil:
		return j.failed(err)
	case !owned:
		j.end(StatusSkipped, fmt.Sprintf("%s: the group of %s is not managed by quiesce", j.Trigger, j.InstanceID))
		return nil
	}
	rejection, err := j.verifyInterruption(invocation, instance)
	switch {
	case err != nil:
		return j.failed(err)
	case rejection != "":
		j.end(StatusRejected, rejection)
		return nil
	}
	return j.drainWithoutHook(invocation, instance)
}

// setInterruptionClock sets the deadline of what EC2 recommends. The event's own time does not count.
func (j *job) setInterruptionClock() {
	j.Began = cmp.Or(j.received, time.Now())
	j.clock.setWithoutHook(j.Began)
}

// setSpotClock sets the deadline of a Spot interruption. EC2 says when it began, which is when it reckons from. An event may be sent or dated
// later. Only where EC2 does not say does the first receipt count. Neither is in the future.
func (j *job) setSpotClock(marked time.Time) {
	now := time.Now()
	if j.Began = cmp.Or(marked, j.received, now); j.Began.After(now) {
		j.Began = now
	}
	j.clock.setForSpot(j.Began)
}

// drainWithoutHook drains an instance that waits on no hook, until the deadline. If the instance comes to wait on our hook meanwhile,
// that action has an event of its own.
func (j *job) drainWithoutHook(invocation context.Context, instance Instance) error {
	j.Hook, j.report.Hook = "", ""
	if j.Policy.Shadow {
		j.planDryRun(invocation)
		return nil
	}
	connected := j.askCluster(invocation)
	j.askInstance(invocation)
	j.asked.peers = j.askPeers(invocation)
	to := connected()
	if to.err != nil {
		return j.failed(to.err)
	}
	cluster := to.cluster
	j.askNodes(invocation, cluster)
	if held := j.acquireLease(invocation, cluster); held {
		j.notifyHolder(invocation, cluster)
		j.skipHeld()
		return nil
	}
	j.continueWithoutLease(invocation, cluster)
	stopHeartbeats := j.startOptionalHeartbeats(invocation)
	_, err := j.drainNode(invocation, cluster, instance)
	j.saveUnsaved(invocation, cluster)
	stopHeartbeats()
	j.releaseLease()
	return err
}

// verifyInterruption returns why a trigger cannot be true; empty: it is. The instance must be a Spot instance that still runs, and there
// must be time. EC2 must confirm an interruption. A recommendation cannot be asked for; it is advice, and only where the operator wants it.
func (j *job) verifyInterruption(ctx context.Context, instance Instance) (rejection string, err error) {
	known, err := j.Groups.EC2Instances(ctx, j.InstanceID)
	switch {
	case err != nil:
		return "", err
	case !j.Trigger.concerns(instance):
		return fmt.Sprintf("%s: %s is %q, and is not drained in this state", j.Trigger, j.InstanceID, instance.State), nil
	case !known[j.InstanceID].Spot:
		return fmt.Sprintf("%s: %s is not a Spot instance", j.Trigger, j.InstanceID), nil
	case j.Trigger == SpotInterruption:
		rejection, err = j.confirmInterruption(ctx)
	default:
		j.setInterruptionClock()
	}
	if rejection != "" || err != nil {
		return rejection, err
	}
	if !time.Now().Before(j.clock.deadline()) {
		return fmt.Sprintf("%s: too late for an event of %s", j.Trigger, j.Began.Format(time.RFC3339)), nil
	}
	return "", nil
}

// concerns reports whether the trigger drains an instance in this state. EC2 reclaims an instance whatever its group thinks of it. A
// recommendation is advice for instances that serve.
func (t Trigger) concerns(i Instance) bool {
	return i.State == inService || i.isWaiting() || t == SpotInterruption && slices.Contains(outOfServiceStates, i.State)
}

// confirmInterruption asks EC2 whether it is about to reclaim the instance, and asks again for a while. If it is, it sets the clock. A
// request that failed only because that time was over says nothing: the answer before it counts.
func (j *job) confirmInterruption(ctx context.Context) (rejection string, err error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	last := context.DeadlineExceeded
	for {
		marked, confirmed, err := j.Groups.SpotInterrupted(ctx, j.InstanceID)
		switch {
		case confirmed && err == nil:
			j.setSpotClock(marked)
			return "", nil
		case err == nil || ctx.Err() == nil:
			last = err
		}
		if drain.Sleep(ctx, confirmPace) == nil {
			continue
		}
		if last != nil {
			return "", last
		}
		return fmt.Sprintf("%s: EC2 does not confirm it of %s", j.Trigger, j.InstanceID), nil
	}
}

// notifyHolder passes a Spot interruption's deadline to the invocation that drains the instance. A drain for a lifecycle action may
// take half an hour, and the instance has two minutes. If that invocation ends before it reads the deadline, the event comes again.
func (j *job) notifyHolder(ctx context.Context, cluster Kubernetes) {
	if j.Trigger != SpotInterruption {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := cluster.ShortenDeadline(ctx, j.InstanceID, j.clock.deadline()); err != nil {
		j.log.Warn("failed to shorten the running drain's deadline", "error", err.Error())
	}
}
