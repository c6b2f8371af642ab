package termination

import (
	"context"
	"fmt"
	"time"
)

// lostAge is how long an instance must have waited before its event counts as lost. EventBridge and SQS deliver within seconds. An
// event that comes after all is a duplicate, and does no harm.
const lostAge = 2 * time.Minute

// overdueAge is after how long no message in flight can be of an instance that no invocation drains: a message is hidden for half of that
// at the most. Its event is sent again then, and each time that the age has doubled. More would fill the queue with duplicates while drains
// fail.
const overdueAge = 2 * maxHeldDelay

// resendLost sends an event again for each instance whose event was lost. It needs to know which instances are drained, and does
// nothing if the cluster is unreachable.
func (s *sweep) resendLost(ctx context.Context) {
	if len(s.waiting) == 0 || s.Queue == nil || s.kubernetes == nil {
		return
	}
	waiting, inFlight, err := s.Queue.Backlog(ctx)
	if err != nil {
		s.addError(err)
		return
	}
	s.report.Messages = waiting
	if waiting > 0 {
		return
	}
	lost := hasLostEvents(len(s.waiting), inFlight, s.countDrains())
	s.forEach(ctx, "lost events", len(s.waiting), func(n int) { s.resendIfLost(ctx, s.waiting[n], lost) })
}

// countDrains returns how many instances are drained now. Each has a message in flight, unless its event did not come through the
// queue. Leases of escorts have other names.
func (s *sweep) countDrains() (n int) {
	for name, lease := range s.leases {
		if lease.Held && isInstance(name) {
			n++
		}
	}
	return n
}

// hasLostEvents reports whether the event of at least one instance was lost. A message in flight that belongs to no running drain may be of
// any of the instances: it is to be tried again. If there are more instances than such messages, one event at least was lost, and second
// events for the others do no harm.
func hasLostEvents(instances, inFlight, drains int) bool { return instances > inFlight-drains }

// resendIfLost sends the event of an instance if one was lost, or if the instance is overdue: what is in flight may be a second message of
// an instance that is drained. It skips an instance so young that its event may yet come, and one so old that Auto Scaling ends its action
// anyway. The age is that of the group's activity, because nothing says when an instance began to wait. Behind a load balancer the activity
// begins up to an hour earlier, so its event may be sent a second time. The event claims no time: its first receipt is when the drain
// knows of the wait, and stays on the Lease.
func (s *sweep) resendIfLost(ctx context.Context, w waitingInstance, lost bool) {
	began, read := s.activities[w.Group]
	if !read || w.hook == nil {
		return
	}
	at, known := began[w.InstanceID]
	if !known {
		at = time.Now().Add(-lostAge) // a duplicate event does less harm than a lost one
	}
	age := time.Since(at)
	if lostAge <= age && age < w.hook.limit() && (lost || isOverdue(age)) {
		s.resend(ctx, w.Termination, at)
	}
}

// isOverdue reports whether one of the sweeps has come that send the event of an instance again, whatever is in flight.
func isOverdue(age time.Duration) bool {
	for due := overdueAge; due <= age; due *= 2 {
		if age-due < turnWindow {
			return true
		}
	}
	return false
}

func (s *sweep) resend(ctx context.Context, t Termination, activity time.Time) {
	if err := s.Queue.Send(ctx, s.EncodeEvent(t)); err != nil {
		s.addError(fmt.Errorf("send the event of %s again: %w", t.InstanceID, err))
		return
	}
	s.Log.Warn("lost event re-sent", "instance", t.InstanceID, "group", t.Group, "activity", activity)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.report.EventsResent++
}
