package awstest

import (
	"slices"
	"time"
)

// Completion is a lifecycle action that was completed by a call, not by expiry.
type Completion struct {
	Hook, Token, Result string
	At                  time.Time
	By                  string // name of the session
}

// Terminate terminates an instance as Auto Scaling does. The group's termination hooks hold it in Terminating:Wait, each with a
// new token and an event, which is returned and not sent. Without such a hook the instance terminates. For an instance that is
// already terminating, nothing changes and no events are returned. An instance of a warm pool waits in Warmed:Terminating:Wait.
func (s *Server) Terminate(instanceID string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account.leave(instanceID, stateWait)
}

// ReturnToWarmPool scales in an instance of a group that reuses instances: the termination hooks hold it in Warmed:Pending:Wait, and
// then it is stopped in the warm pool (https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html).
func (s *Server) ReturnToWarmPool(instanceID string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account.leave(instanceID, stateWarmedPendingWait)
}

// leave takes an instance out of service. The hooks hold it in the state wait.
func (a *account) leave(instanceID, wait string) []Event {
	now := time.Now()
	i := a.instance(instanceID)
	if i == nil || i.nextToExpire() != nil || i.isOver(now) {
		return nil
	}
	if isWarm(i.stateAt(now)) {
		wait = stateWarmedTerminatingWait
	}
	i.begin(now)
	i.group.activities = append(i.group.activities, activity{newUUID(), i, now})
	if len(i.actions) == 0 {
		i.enter(stateTerminating, now)
		i.enter(stateGone, now.Add(a.proceed))
		return nil
	}
	i.enter(wait, now)
	events := make([]Event, 0, len(i.actions))
	for _, held := range i.actions {
		events = append(events, newEvent(i, held))
	}
	return events
}

// begin starts an action for each termination hook. Earlier actions are no longer active.
func (i *instance) begin(now time.Time) {
	i.actions = nil
	for _, h := range i.group.hooks {
		if h.Transition == Terminating {
			i.actions = append(i.actions, &lifecycleAction{hook: h, token: newUUID(), began: now, lastBeat: now})
		}
	}
}

// Backdate makes the instance's present termination older by d, so that a test need not wait. Its hooks get their heartbeats
// meanwhile.
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

// SetState forces a lifecycle state; "" removes the instance. Its lifecycle actions end unless instances wait in that state, and
// none start.
func (s *Server) SetState(instanceID, state string) {
	s.with(instanceID, func(i *instance) {
		if !waits(state) {
			i.release()
		}
		i.enter(state, time.Now())
	})
}

// State returns the instance's present lifecycle state; "" if it does not exist (any more).
func (s *Server) State(instanceID string) (state string) {
	s.with(instanceID, func(i *instance) { state = i.stateAt(time.Now()) })
	return state
}

// Completions returns the lifecycle actions of the instance that were completed by a call.
func (s *Server) Completions(instanceID string) (all []Completion) {
	s.with(instanceID, func(i *instance) { all = slices.Clone(i.completions) })
	return all
}

// Heartbeats returns when heartbeats of the instance's actions were accepted.
func (s *Server) Heartbeats(instanceID string) (all []time.Time) {
	s.with(instanceID, func(i *instance) { all = slices.Clone(i.heartbeats) })
	return all
}

// Expired reports whether a lifecycle action of the instance ever expired.
func (s *Server) Expired(instanceID string) (expired bool) {
	s.with(instanceID, func(i *instance) { expired = i.expired })
	return expired
}

// with passes the instance as it is now to use, if it exists.
func (s *Server) with(instanceID string, look func(*instance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.account.instance(instanceID); i != nil {
		look(i)
	}
}
