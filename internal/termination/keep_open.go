package termination

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// leftOpen is no result: the lifecycle action is left to its own end, at the hook's limit.
const leftOpen = ""

// maxNamedCopies bounds the pods that one note names.
const maxNamedCopies = 3

// resumeKeptOpen continues to keep the action open, if an earlier invocation began to. That one wrote so on the Lease, where nobody else
// can: without it, an invocation that cannot look at the pods would complete the action at the drain's own deadline.
func (j *job) resumeKeptOpen(hook Hook) {
	j.hook = hook
	if j.lease == nil {
		return
	}
	for _, n := range j.lease.Closed() {
		if n.KeptOpen && n.IsOf(j.Hook, j.Trigger, j.Began) {
			j.keptOpen = true
			j.clock.extendToLimit(hook)
		}
	}
}

// keepRecordedOpen keeps the action open to the hook's limit, if the Lease says that the data of a pod exist on this node only. It is called
// if the pods cannot be looked at. It reports false if the Lease does not say so, or if there is no more time.
func (j *job) keepRecordedOpen() bool {
	if j.Hook == "" || j.Trigger != "" || j.keptOpen || !j.recordsOnlyCopy() || !j.clock.extendToLimit(j.hook) {
		return false
	}
	j.keptOpen = true
	j.log.Warn("lifecycle action kept open to the hook's limit", "reason", recordedReason, "deadline", j.clock.deadline())
	return true
}

// recordedReason is why an action is not completed when the pods cannot be looked at.
const recordedReason = "the Lease says that the data of a pod exist on this node only"

func (j *job) recordsOnlyCopy() bool {
	return j.lease != nil && slices.ContainsFunc(j.lease.Escorted(), func(uid string) bool {
		return drain.SaysOnlyCopy(j.lease.Record(drain.EscortRecord + uid))
	})
}

// mayBeKeptOpen reports whether an earlier invocation may keep the action open. This one cannot know it without the Lease. It is so if a
// phase keeps its pods, and the drain's time was over then. At the hook's limit nothing is kept.
func (j *job) mayBeKeptOpen(hook Hook, at time.Time) bool {
	return j.keepsPods() && j.lease == nil && j.Hook != "" && j.Trigger == "" &&
		j.clock.wasOver(at) && time.Now().Before(j.clock.limit(hook))
}

// waitForLease fails the invocation if it must not go on without the Lease. Its plain evictions would end the only copy of data.
func (j *job) waitForLease(hook Hook) error {
	if j.noLease == nil || !j.mayBeKeptOpen(hook, j.report.StartedAt) {
		return nil
	}
	return j.failed(fmt.Errorf("acquire the lease, without which a database's only copy is not known: %w", j.noLease))
}

// keepOpen keeps the action open to the hook's limit, if the drain's time is over and a pod remains whose data exist on this node only. It
// reports false if there is no such pod, or no more time. A person can still save the data, or add a replica, after which the drain
// continues. The instance waits for longer than a drain may take, which has an alarm.
func (j *job) keepOpen(invocation context.Context) bool {
	copies := j.report.OnlyCopies()
	if len(copies) == 0 || j.Hook == "" || j.Trigger != "" || j.keptOpen || !j.clock.extendToLimit(j.hook) {
		return false
	}
	j.keptOpen = true
	j.log.Warn("lifecycle action kept open to the hook's limit", "reason", onlyCopiesNote(copies), "deadline", j.clock.deadline())
	if j.lease == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(invocation, askTimeout)
	defer cancel()
	for _, d := range j.drains {
		closed := ClosedNode{Name: d.node.Name, UID: d.node.UID, Hook: j.Hook, Trigger: j.Trigger, Began: j.Began, CordonedAt: d.node.Cordoned}
		if earlier := j.closedBefore(d.node); earlier != nil {
			closed = *earlier
		}
		closed.KeptOpen = true
		if err := j.saveClosed(ctx, closed); err != nil {
			j.continueWithout("record that the action is kept open", err)
		}
	}
	return true
}

// noteOnlyCopies notes for the report why the action is kept open.
func (j *job) noteOnlyCopies() {
	if copies := j.report.OnlyCopies(); j.keptOpen && len(copies) > 0 {
		j.notes = append(j.notes, onlyCopiesNote(copies))
	}
}

func onlyCopiesNote(copies []drain.PodReport) string {
	note := "data exist on this node only, the lifecycle action is kept open to the hook's limit:"
	for i, p := range copies[:min(len(copies), maxNamedCopies)] {
		if i > 0 {
			note += ","
		}
		note += " " + p.Namespace + "/" + p.Name
	}
	if more := len(copies) - maxNamedCopies; more > 0 {
		note += fmt.Sprintf(" and %d more", more)
	}
	return note
}

// limit returns by when a drain must end that takes as long as the hook allows. Without a description of the hook it is as far as any hook's.
func (c *clock) limit(h Hook) time.Time {
	return c.earliest.Add(cmp.Or(h.limit(), maxHookTime) - c.bounds.CompletionReserve)
}

// extendToLimit moves the deadline to the hook's own limit. It reports false if that is no later than the deadline, or if EC2 reclaims the
// instance before.
func (c *clock) extendToLimit(h Hook) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	limit := c.limit(h)
	if c.shortened || !limit.After(c.end) || !limit.After(time.Now()) {
		return false
	}
	c.due, c.end = limit, limit
	return true
}
