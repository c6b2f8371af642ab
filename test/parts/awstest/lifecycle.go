package awstest

import (
	"slices"
	"time"
)

// Completion is a lifecycle action that somebody completed, as opposed to one that ran out of time.
type Completion struct {
	Hook, Token, Result string
	At                  time.Time
	By                  string // name of the session
}

// Terminate does what Auto Scaling does to an instance it takes away: the termination hooks of its group hold it in
// Terminating:Wait, each with a fresh token and an event, which is returned and not sent. Where there is no such hook
// the instance goes. An instance that is already going is left as it is: no events.
func (s *Server) Terminate(instanceID string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	i := s.account.instance(instanceID)
	if i == nil || i.nextToExpire() != nil || slices.Contains([]string{stateProceed, stateGone}, i.stateAt(now)) {
		return nil
	}
	i.begin(now)
	i.group.activities = append(i.group.activities, activity{newUUID(), i, now})
	if len(i.actions) == 0 {
		i.enter(stateTerminating, now)
		i.enter(stateGone, now.Add(s.account.proceed))
		return nil
	}
	i.enter(stateWait, now)
	events := make([]Event, 0, len(i.actions))
	for _, a := range i.actions {
		events = append(events, newEvent(i, a))
	}
	return events
}

// begin starts an action for each termination hook. What earlier actions left behind is no longer active.
func (i *instance) begin(now time.Time) {
	i.actions = nil
	for _, h := range i.group.hooks {
		if h.Transition == Terminating {
			i.actions = append(i.actions, &lifecycleAction{hook: h, token: newUUID(), began: now, beat: now})
		}
	}
}

// Backdate makes the instance's present termination that much older than it is, so that a test need not wait. Its hooks have had
// their heartbeats meanwhile.
func (s *Server) Backdate(instanceID string, d time.Duration) {
	s.with(instanceID, func(i *instance) {
		for _, a := range i.actions {
			a.began = a.began.Add(-d)
		}
		for n := range i.group.activities {
			if a := &i.group.activities[n]; a.instance == i {
				a.began = a.began.Add(-d)
			}
		}
	})
}

// SetState forces a lifecycle state; "" takes the instance away. Its lifecycle actions end unless instances wait in that
// state, and none begin.
func (s *Server) SetState(instanceID, state string) {
	s.with(instanceID, func(i *instance) {
		if !waits(state) {
			i.release()
		}
		i.enter(state, time.Now())
	})
}

// State is the instance's present lifecycle state; "" when it is gone, or never was.
func (s *Server) State(instanceID string) (state string) {
	s.with(instanceID, func(i *instance) { state = i.stateAt(time.Now()) })
	return state
}

// Completions are the lifecycle actions of the instance that were completed by a call.
func (s *Server) Completions(instanceID string) (all []Completion) {
	s.with(instanceID, func(i *instance) { all = slices.Clone(i.completions) })
	return all
}

// Heartbeats are the times at which heartbeats of any of the instance's actions were accepted.
func (s *Server) Heartbeats(instanceID string) (all []time.Time) {
	s.with(instanceID, func(i *instance) { all = slices.Clone(i.heartbeats) })
	return all
}

// Expired tells whether a lifecycle action of the instance ever ran out of time.
func (s *Server) Expired(instanceID string) (expired bool) {
	s.with(instanceID, func(i *instance) { expired = i.expired })
	return expired
}

// with shows an instance as it is now, if there is one.
func (s *Server) with(instanceID string, look func(*instance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.account.instance(instanceID); i != nil {
		look(i)
	}
}
