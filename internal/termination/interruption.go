package termination

import (
	"context"
	"fmt"
	"time"
)

// runInterruption drains for a trigger: the same drain with another clock. No lifecycle action waits, so there is nothing to complete.
func (j *job) runInterruption(ctx context.Context) error {
	invocation, cancel := boundInvocation(ctx)
	defer cancel()
	if err := j.findGroup(invocation); err != nil {
		return j.failed(err)
	}
	if !j.Policy.OwnsGroup(j.Group) {
		j.end(StatusSkipped, fmt.Sprintf("%s: the group of %s is not managed by quiesce", j.Trigger, j.InstanceID))
		return nil
	}
	instances, err := j.Groups.Instances(invocation, j.Group)
	if err != nil {
		return j.failed(err)
	}
	if j.Trigger == SpotInterruption {
		j.clock.setForSpot(j.Began)
	} else {
		j.clock.setWithoutHook(j.Began)
	}
	rejection, err := j.verifyInterruption(invocation, instances)
	switch {
	case err != nil:
		return j.failed(err)
	case rejection != "":
		j.end(StatusRejected, rejection)
		return nil
	case j.Policy.Shadow:
		j.planDryRun(invocation, instances)
		return nil
	}
	return j.drainWithoutHook(invocation, instances)
}

// drainWithoutHook drains an instance that waits on no hook, until the deadline. If the instance comes to wait on our hook meanwhile,
// that action has an event of its own.
func (j *job) drainWithoutHook(invocation context.Context, instances []Instance) error {
	j.Hook, j.report.Hook = "", ""
	cluster, lease, err := j.acquireLease(invocation)
	switch {
	case err != nil:
		return j.failed(err)
	case lease == nil:
		j.notifyHolder(invocation, cluster)
		j.skipHeld()
		return nil
	}
	defer j.releaseLease(lease)
	stopHeartbeats := j.startOptionalHeartbeats(invocation)
	_, err = j.drainNode(invocation, cluster, instances)
	stopHeartbeats()
	return err
}

// verifyInterruption returns why a trigger cannot be true; empty: it can. The instance must be a Spot instance that still runs, and
// there must be time. Whether EC2 really reclaims it can only be seen when it is too late.
func (j *job) verifyInterruption(ctx context.Context, instances []Instance) (rejection string, err error) {
	known, err := j.Groups.EC2Instances(ctx, j.InstanceID)
	instance := instanceOf(instances, j.InstanceID)
	switch {
	case err != nil:
		return "", err
	case instance.State != inService && !instance.isWaiting():
		return fmt.Sprintf("%s: %s is %q, already past draining", j.Trigger, j.InstanceID, instance.State), nil
	case !known[j.InstanceID].Spot:
		return fmt.Sprintf("%s: %s is not a Spot instance", j.Trigger, j.InstanceID), nil
	case !time.Now().Before(j.clock.deadline()):
		return fmt.Sprintf("%s: too late for an event of %s", j.Trigger, j.Began.Format(time.RFC3339)), nil
	}
	return "", nil
}

// notifyHolder passes a Spot interruption's deadline to the invocation that drains the instance. A drain for a lifecycle action may
// take half an hour, and the instance has two minutes. If that invocation ends before it reads the deadline, the event comes again.
func (j *job) notifyHolder(ctx context.Context, cluster Kubernetes) {
	if j.Trigger != SpotInterruption {
		return
	}
	if err := cluster.ShortenDeadline(ctx, j.InstanceID, j.clock.deadline()); err != nil {
		j.log.Warn("failed to shorten the running drain's deadline", "error", err.Error())
	}
}
