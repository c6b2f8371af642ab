package termination

import (
	"context"
	"fmt"
	"time"
)

// lostAge is how long an instance must have waited before its event counts as lost. EventBridge and SQS deliver within seconds. An
// event that comes after all is a duplicate, and does no harm.
const lostAge = 2 * time.Minute

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
	if !hasLostEvents(len(s.waiting), waiting, inFlight, s.countDrains()) {
		return
	}
	s.forEach(ctx, "lost events", len(s.waiting), func(n int) { s.resendIfLost(ctx, s.waiting[n]) })
}

// countDrains returns how many instances are drained now. Each has a message in flight, unless its event did not come through the
// queue. Leases of escorts have other names.
func (s *sweep) countDrains() (n int) {
	for _, lease := range s.held {
		if isInstance(lease) {
			n++
		}
	}
	return n
}

// hasLostEvents reports whether the event of at least one instance was lost. A message that waits may be of any of the instances. A
// message in flight that belongs to no running drain may be too: it is to be tried again. If there are more instances than such
// messages, one event at least was lost, and second events for the others do no harm.
func hasLostEvents(instances, waiting, inFlight, drains int) bool {
	return waiting == 0 && instances > inFlight-drains
}

// resendIfLost sends the event of an instance. It skips one so young that its event may yet come, and one so old that Auto Scaling ends
// its action anyway. The age is that of the group's activity: nothing else says when an instance began to wait.
func (s *sweep) resendIfLost(ctx context.Context, w waitingInstance) {
	began, read := s.activities[w.Group]
	if !read || w.hook == nil {
		return
	}
	at, known := began[w.InstanceID]
	if !known {
		at = time.Now().Add(-lostAge) // a duplicate event does less harm than a lost one
	}
	if age := time.Since(at); lostAge <= age && age < w.hook.limit() {
		w.Began = at
		s.resend(ctx, w.Termination)
	}
}

func (s *sweep) resend(ctx context.Context, t Termination) {
	if err := s.Queue.Send(ctx, s.EncodeEvent(t)); err != nil {
		s.addError(fmt.Errorf("send the event of %s again: %w", t.InstanceID, err))
		return
	}
	s.Log.Warn("lost event re-sent", "instance", t.InstanceID, "group", t.Group, "began", t.Began)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.report.EventsResent++
}
