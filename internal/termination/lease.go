package termination

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// acquireLease connects to the cluster and acquires the instance's Lease, which then keeps the records of the drain. Lease is nil if
// another invocation holds it.
func (j *job) acquireLease(invocation context.Context) (cluster Kubernetes, lease Lease, err error) {
	if cluster, err = j.Connect(invocation); err != nil {
		return nil, nil, err
	}
	lease, err = cluster.AcquireLease(invocation, j.InstanceID, j.clock.shorten)
	if err != nil {
		return nil, nil, err
	}
	j.drainer.Records = lease
	return cluster, lease, nil
}

// skipHeld ends a job whose instance another invocation drains. The record comes again, in case that one does not finish.
func (j *job) skipHeld() {
	j.report.held = true
	j.end(StatusSkipped, "another invocation is draining the instance")
}

// releaseLease releases the Lease. A Lease whose release fails expires by itself; until then no other invocation can drain.
func (j *job) releaseLease(lease Lease) {
	keep := KeepRecords
	switch {
	case j.report.LifecycleResult == "" && (j.report.Status == StatusIncomplete || j.report.Status == StatusFailed):
		keep = KeepAll
	case j.report.allGone():
		keep = KeepNothing
	}
	if err := lease.Release(keep); err != nil {
		j.log.Warn("failed to release lease", "error", err.Error())
	}
}

// withoutCluster ends a job whose cluster cannot be reached, or refuses it. Until the deadline the instance is kept alive for another
// try. Then the operator's onFailure decides. If the first receipt of the event is unknown, the event's own time stands in for it, so
// that tries do not move the deadline.
func (j *job) withoutCluster(ctx, invocation context.Context, cause error) error {
	j.seen = cmp.Or(j.seen, j.Began)
	hook, err := j.loadHook(invocation)
	if err != nil {
		return j.failed(fmt.Errorf("%w; %w", cause, err))
	}
	j.clock.setForHook(j.Began, j.seen, hook)
	if time.Now().Before(j.clock.deadline()) {
		j.heartbeater().sendLast(invocation)
		return j.failed(cause)
	}
	j.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, cause))
	return j.complete(ctx, j.Policy.OnFailure)
}
