package termination

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// restore restores nodes whose instances returned to service, from a warm pool for example, and nodes that were closed for a Spot
// interruption that was not true. No event says so. Nodes that were cordoned by hand or for a rebalance recommendation stay cordoned. So
// do nodes of retained instances, whose pods keep running. What escorts changed is undone on all of these instances.
func (s *sweep) restore(ctx context.Context) {
	if s.kubernetes == nil || s.Policy.Shadow {
		return
	}
	ids := slices.Sorted(maps.Keys(s.returned))
	s.forEach(ctx, "nodes that returned", len(ids), func(n int) { s.restoreNodes(ctx, s.returned[ids[n]]) })
}

func (s *sweep) restoreNodes(ctx context.Context, t Termination) {
	if s.staysClosed(t.InstanceID) {
		none := func(string) bool { return false } // the instance stays: no record protects anything
		_, err := s.undoRecords(ctx, s.leases[t.InstanceID], none)
		if !errors.Is(err, ErrLeaseHeld) {
			s.addError(err)
		}
	}
	for _, n := range s.leases[t.InstanceID].Closed {
		if !s.Policy.isRestorable(n) || s.leases[t.InstanceID].Held {
			continue
		}
		j := s.newJob(t)
		restored, err := j.restoreReturned(ctx, s.kubernetes, n)
		s.addError(err)
		if !restored {
			continue
		}
		s.mutex.Lock()
		s.report.Restored++
		s.mutex.Unlock()
		log := j.nodeLog(n.Name)
		log.Info("node restored, its instance returned to service")
	}
}

// staysClosed reports whether only what escorts changed is to be undone: no node of the instance is to be opened. A drain by hand, or for a
// rebalance recommendation, may have died. If it is young, its next invocation may be about to continue it.
func (s *sweep) staysClosed(id string) bool {
	isPending := func(n ClosedNode) bool { return s.Policy.isRestorable(n) || time.Since(n.CordonedAt) < minCordonAge }
	lease := s.leases[id]
	return len(lease.Escorted) > 0 && s.Drainer.HasEscorts() && !lease.Held && !slices.ContainsFunc(lease.Closed, isPending)
}
