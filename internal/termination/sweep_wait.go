package termination

import (
	"context"
	"slices"
	"time"
)

// measureWaits finds the instance that has waited longest on our hook, drained or not. The age of a message does not say that: it is
// unknown once the message was received a few times.
func (s *sweep) measureWaits(ctx context.Context) {
	waiting := slices.Concat(s.draining, s.undrained())
	s.readActivities(ctx, waiting)
	for _, t := range waiting {
		since := s.waitsSince(t)
		if since.IsZero() {
			continue
		}
		if wait := time.Since(since).Seconds(); wait > s.report.LongestWaitSeconds {
			s.report.LongestWaitSeconds, s.report.LongestWaiting = wait, t.InstanceID
		}
	}
}

// readActivities reads when the activities of the groups of these instances began. Groups that could not be read are missing.
func (s *sweep) readActivities(ctx context.Context, waiting []Termination) {
	groups := groupsOf(waiting)
	s.forEach(ctx, "activities of groups", len(groups), func(n int) {
		began, err := s.Groups.ActivityStarts(ctx, groups[n])
		if err != nil {
			s.addError(err)
			return
		}
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.activities[groups[n]] = began
		if began == nil {
			s.activities[groups[n]] = map[string]time.Time{}
		}
	})
}

// waitsSince returns since when an instance waits: since its event was received first, since its activity began, or as long as its node is
// closed; zero: unknown. Behind a load balancer the activity begins up to an hour before the wait. A receipt before the activity is of an
// earlier termination.
func (s *sweep) waitsSince(t Termination) time.Time {
	activity, known := s.activities[t.Group][t.InstanceID]
	if received := s.leases[t.InstanceID].Received; known && received.After(activity) {
		return received
	}
	if known {
		return activity
	}
	var first time.Time
	for _, n := range s.leases[t.InstanceID].Closed {
		if first.IsZero() || n.CordonedAt.Before(first) {
			first = n.CordonedAt
		}
	}
	return first
}
