package termination

import (
	"context"
	"slices"
	"time"
)

// minCordonAge is how long ago a node must have been cordoned before an instance in service counts as returned: no description lags
// that much.
const minCordonAge = 2 * time.Minute

// restore restores nodes whose instances returned to service, from a warm pool for example. No event says so. Nodes that were cordoned
// by hand or for a trigger wait on no hook, and stay cordoned. So do nodes of retained instances, whose pods keep running.
func (s *sweep) restore(ctx context.Context) {
	if s.kubernetes == nil || s.Policy.Shadow {
		return
	}
	for _, n := range s.cordoned {
		t, returned := s.returned[n.Node.InstanceID]
		if !returned || n.Hook != t.Hook || time.Since(n.CordonedAt) < minCordonAge || slices.Contains(s.held, t.InstanceID) {
			continue
		}
		j := s.newJob(t)
		restored, err := j.restoreReturned(ctx, s.kubernetes, n)
		s.addError(err)
		if restored {
			s.report.Restored++
			j.log.Info("node restored, its instance returned to service", "node", n.Node.Name)
		}
	}
}
