package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"quiesce/internal/drain"
)

const (
	// acquireTime bounds the tries to acquire the Lease. Without it the drain can only evict plainly, so a few refusals are worth waiting
	// for; pods that are never told to stop are not.
	acquireTime = 10 * time.Second
	// acquireRetry paces them: a throttled API server answers in a second or two.
	acquireRetry = 2 * time.Second
	// lateLeaseTime bounds the try to have a Lease after all, to record which nodes were closed without one. The invocation may be about to
	// end, and most instances do not return to service.
	lateLeaseTime = 2 * time.Second
)

// After so many invocations in a row that ended uncleanly, a drain does less: something on the node ends the function.
const (
	uncleanWithoutEscorts = 2
	uncleanOnlyMetadata   = 3
)

// acquireLease acquires the instance's Lease, which then keeps the records of the drain. Held reports whether another invocation holds
// it. Without any answer the drain may go on with plain evictions, which two invocations may repeat.
func (j *job) acquireLease(invocation context.Context, cluster Kubernetes) (held bool) {
	until := time.Now().Add(acquireTime)
	lease, err := j.tryAcquire(invocation, cluster, until)
	for err != nil && time.Until(until) > acquireRetry && drain.Sleep(invocation, acquireRetry) == nil {
		lease, err = j.tryAcquire(invocation, cluster, until)
	}
	switch {
	case err != nil:
		j.drainer.Records, j.drainer.Effort, j.noLease = nil, drain.EffortNoEscorts, err
		return false
	case lease == nil:
		return true
	}
	j.lease, j.drainer.Records = lease, lease
	j.lowerEffort(lease.UncleanEnds())
	return false
}

// continueWithoutLease says so, if there is none. What an earlier invocation wrote on it is read as soon as that can be: without an escort, a
// database's member is evicted in the drain's last moments, but not if it has the only copy of its data.
func (j *job) continueWithoutLease(invocation context.Context, cluster Kubernetes) {
	if j.noLease == nil {
		return
	}
	j.continueWithout("acquire the lease; plain evictions only", j.noLease)
	if !j.keepsPods() {
		return
	}
	var earlier atomic.Pointer[drain.Records]
	j.drainer.EarlierOnlyCopy = func(uid string) bool {
		records := earlier.Load()
		return records != nil && drain.SaysOnlyCopy((*records).Record(drain.EscortRecord+uid))
	}
	go func() {
		for {
			ctx, cancel := context.WithTimeout(invocation, askTimeout)
			records, err := cluster.ReadRecords(ctx, j.InstanceID)
			if cancel(); err == nil {
				earlier.Store(&records)
				return
			}
			if drain.Sleep(invocation, acquireRetry) != nil {
				return
			}
		}
	}()
}

// keepsPods reports whether a phase keeps its pods for their escort.
func (j *job) keepsPods() bool {
	return slices.ContainsFunc(j.drainer.Phases, func(p drain.Phase) bool { return p.Keeps })
}

// tryAcquire tries once. The Lease is renewed until the invocation ends, but an answer is awaited until then only.
func (j *job) tryAcquire(invocation context.Context, cluster Kubernetes, until time.Time) (Lease, error) {
	holding, cancel := context.WithCancelCause(invocation)
	timer := time.AfterFunc(time.Until(until), func() { cancel(context.DeadlineExceeded) })
	lease, err := cluster.AcquireLease(holding, j.InstanceID, j.acquisition())
	if !timer.Stop() && err == nil && lease != nil { // it came too late, and is not renewed
		if err := lease.Release(KeepAll); err != nil {
			j.log.Warn("failed to release lease", "error", err.Error())
		}
		lease, err = nil, context.DeadlineExceeded
	}
	if lease == nil || err != nil {
		cancel(nil)
		return nil, err
	}
	j.unlease = func() { cancel(nil) }
	return lease, nil
}

func (j *job) acquisition() Acquisition {
	a := Acquisition{Shorten: j.clock.shorten, Lost: takenOver(j.log, j.abandon)}
	if j.Hook != "" { // a later action must not count from a drain that waits on no hook
		a.Received = cmp.Or(j.received, time.Now())
	}
	if j.Trigger == SpotInterruption {
		a.Deadline = j.clock.deadline()
	}
	return a
}

// takenOver returns what ends the work of an invocation whose Lease another one took, after an outage that outlasted it. Two drains of one
// node would tell pods twice to stop, and undo each other's escorts. It is called beside the job, whose log changes.
func takenOver(log *slog.Logger, abandon context.CancelCauseFunc) func() {
	return func() {
		log.Warn("drain taken over by another invocation")
		abandon(drain.ErrTakenOver)
	}
}

// lowerEffort attempts less after invocations that ended uncleanly. Each says so, since it is not what the operator configured.
func (j *job) lowerEffort(uncleanEnds int) {
	text := fmt.Sprintf("%d invocations before this one ended uncleanly", uncleanEnds)
	switch {
	case uncleanEnds >= uncleanOnlyMetadata:
		j.drainer.Effort = drain.EffortMetadata
		text += ": plain evictions, from the metadata of pods"
	case uncleanEnds >= uncleanWithoutEscorts:
		j.drainer.Effort = drain.EffortNoEscorts
		text += ": no escorts"
	default:
		return
	}
	j.log.Warn("invocations ended uncleanly, drain does less", "count", uncleanEnds)
	j.notes = append(j.notes, text)
}

// closedBefore returns what the Lease says of an earlier closing of the node, or without a Lease this invocation; nil: nothing.
func (j *job) closedBefore(node drain.Node) *ClosedNode {
	if j.lease != nil {
		return closedNode(j.lease.Closed(), node.UID)
	}
	return closedNode(j.unsaved.all(), node.UID)
}

// closedNode returns the node of this UID; nil: there is none.
func closedNode(closed []ClosedNode, uid string) *ClosedNode {
	if i := slices.IndexFunc(closed, func(n ClosedNode) bool { return n.UID == uid }); i >= 0 {
		return &closed[i]
	}
	return nil
}

// saveClosed keeps in the Lease what is changed on a node. Without one it keeps that for saveUnsaved.
func (j *job) saveClosed(ctx context.Context, n ClosedNode) error {
	if j.lease == nil {
		j.unsaved.put(n)
		return nil
	}
	return j.lease.SetClosed(ctx, n)
}

// unsavedNodes is what was changed on nodes without a Lease. Two nodes that claim one instance are closed at once.
type unsavedNodes struct {
	mutex sync.Mutex
	nodes []ClosedNode
}

func (u *unsavedNodes) all() []ClosedNode {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	return slices.Clone(u.nodes)
}

// put replaces what is known of the node.
func (u *unsavedNodes) put(n ClosedNode) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	u.nodes = append(slices.DeleteFunc(u.nodes, func(before ClosedNode) bool { return before.UID == n.UID }), n)
}

// saveUnsaved tries once more to have the Lease, if nodes were closed without one. Otherwise a node stayed closed if its instance returned
// to service. It is called at the end of a drain, before the lifecycle action is completed.
func (j *job) saveUnsaved(invocation context.Context, cluster Kubernetes) {
	if len(j.unsaved.all()) == 0 {
		return
	}
	invocation = context.WithoutCancel(invocation) // which may have ended
	lease, err := j.tryAcquire(invocation, cluster, time.Now().Add(lateLeaseTime))
	if lease == nil && err == nil {
		return // the drain of another invocation goes on, and the node says what was changed
	}
	if err == nil {
		j.lease = lease
		err = j.saveEach(invocation, lease)
	}
	if err != nil {
		j.log.Warn("failed to record that the node was closed", "error", err.Error())
	}
}

// saveEach adds to the Lease what was changed on nodes without one.
func (j *job) saveEach(ctx context.Context, lease Lease) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lateLeaseTime)
	defer cancel()
	for _, n := range j.unsaved.all() {
		if before := closedNode(lease.Closed(), n.UID); before != nil {
			n.Unschedulable, n.Excluded = n.Unschedulable || before.Unschedulable, n.Excluded || before.Excluded
			n.KeptOpen = n.KeptOpen || before.KeptOpen
		}
		err = errors.Join(err, lease.SetClosed(ctx, n))
	}
	return err
}

// skipHeld ends a job whose instance another invocation drains. The record comes again, in case that one does not finish.
func (j *job) skipHeld() {
	j.report.held = true
	j.end(StatusSkipped, "another invocation is draining the instance")
}

// releaseLease releases the Lease, if there is one. A Lease whose release fails expires by itself; until then no other invocation can
// drain. What was changed on nodes stays in it until the instance is gone, or its node is restored.
func (j *job) releaseLease() {
	if j.lease == nil {
		return
	}
	keep := KeepRecords
	switch {
	case j.report.LifecycleResult == "" && (j.report.Status == StatusIncomplete || j.report.Status == StatusFailed):
		keep = KeepAll
	case j.report.allGone():
		keep = KeepClosed
	}
	if err := j.lease.Release(keep); err != nil {
		j.log.Warn("failed to release lease", "error", err.Error())
	}
	if j.unlease != nil {
		j.unlease()
	}
}

// withoutCluster ends a job whose cluster cannot be reached, or refuses it. Until shortly after the deadline the instance is kept alive for
// another try, and to the hook's limit if it may have the only copy of data. Then the operator's onFailure decides.
func (j *job) withoutCluster(ctx, invocation context.Context, cause error) error {
	j.askClock(invocation)
	hook := j.asked.hook()
	j.learnClock(j.asked.activities, hook)
	if !j.clock.isLongOver() || j.mayBeKeptOpen(hook, time.Now()) {
		j.heartbeater().sendLast(invocation)
		return j.failed(cause)
	}
	j.end(StatusFailed, fmt.Sprintf("%v: %v", errDeadlineReached, cause))
	return j.complete(ctx, j.Policy.OnFailure)
}
