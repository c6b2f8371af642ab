package termination

import (
	"context"
	"fmt"
	"time"
)

// resendLost sends an event for each instance that waits in vain. Who owns what must be known for that.
func (s *sweep) resendLost(ctx context.Context) {
	if len(s.waiting) == 0 || s.Queue == nil || s.kubernetes == nil {
		return
	}
	waiting, underWay, err := s.Queue.Backlog(ctx)
	if err != nil {
		s.addError(err)
		return
	}
	s.report.Messages = waiting
	if !hasLostEvents(len(s.waiting), waiting, underWay, s.countDrains()) {
		return
	}
	groups := groupsOf(s.waiting)
	forEach(len(groups), func(n int) { s.resendGroup(ctx, groups[n]) })
}

// countDrains is how many instances are owned. Each has a message under way, unless its event did not come by the queue. Other
// leases, of escorts', have other names.
func (s *sweep) countDrains() (n int) {
	for _, lease := range s.held {
		if isInstance(lease) {
			n++
		}
	}
	return n
}

// hasLostEvents: while a message waits, it may be of any of the instances. So may be one that was delivered and is not that of an
// instance which is owned: it is to be tried again. Where there are more instances than such messages, the event of one
// at least was lost, and a second one for the others does no harm.
func hasLostEvents(instances, waiting, underWay, drains int) bool {
	return waiting == 0 && instances > underWay-drains
}

// resendGroup enqueues the terminations of a group that are neither so young that their event may yet come, nor so old that Auto Scaling
// ends them anyway. Their age is that of the group's activity: nothing else tells when the instance began to wait.
func (s *sweep) resendGroup(ctx context.Context, group string) {
	began, err := s.Fleet.ActivityStarts(ctx, group)
	if err != nil {
		s.addError(err)
		return
	}
	for _, w := range s.waiting {
		if w.Group != group || w.hook == nil {
			continue
		}
		at, known := began[w.InstanceID]
		if !known {
			at = time.Now().Add(-lostAge) // better one event too many than an instance that waits in vain
		}
		if age := time.Since(at); lostAge <= age && age < w.hook.limit() {
			w.Began = at
			s.send(ctx, w.Termination)
		}
	}
}

func (s *sweep) send(ctx context.Context, t Termination) {
	if err := s.Queue.Send(ctx, s.EncodeEvent(t)); err != nil {
		s.addError(fmt.Errorf("enqueue the termination of %s: %w", t.InstanceID, err))
		return
	}
	s.Log.Warn("event lost: enqueued", "instance", t.InstanceID, "group", t.Group, "began", t.Began)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.EventsResent++
}
