package awstest

import "time"

// capacity returns how many instances the group has, without those of its warm pool and those that it retains.
func (a *account) capacity(g *group) (n int) {
	for _, i := range g.instances {
		if state := a.instance(i.ID).stateAt(time.Now()); state != stateGone && !isWarm(state) && !isRetained(state) {
			n++
		}
	}
	return n
}

// Events returns the events of terminations that calls have begun, and forgets them. Nothing sends them.
func (s *Server) Events(group string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.account.group(group)
	events := g.events
	g.events = nil
	return events
}

// Protect protects an instance from scale-in.
func (s *Server) Protect(instanceID string) {
	s.with(instanceID, func(i *instance) { i.protected = true })
}
