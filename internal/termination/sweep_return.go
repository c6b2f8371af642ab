package termination

import (
	"context"
	"errors"
	"slices"
	"time"
)

// minCordonAge is how long ago a node must have been closed before an instance in service is taken for one that came back: no
// description lags that much.
const minCordonAge = 2 * time.Minute

// restore gives back what was taken from nodes whose instances are in service again: those of a warm pool that is reused, say.
// No event tells of that. Nodes that were closed for a person or a notice wait on no hook, and stay closed; so do those of
// instances that their group retains, whose pods run on.
func (s *sweep) restore(ctx context.Context) {
	if s.kubernetes == nil || s.Policy.Shadow {
		return
	}
	for _, m := range s.cordoned {
		t, stays := s.returned[m.Node.InstanceID]
		if !stays || m.Hook != t.Hook || time.Since(m.CordonedAt) < minCordonAge || slices.Contains(s.held, t.InstanceID) {
			continue
		}
		w := s.newJob(t)
		restored, err := w.restoreReturned(ctx, s.kubernetes, m)
		s.addError(err)
		if restored {
			s.report.Restored++
			w.log.Info("node restored: its instance came back", "node", m.Node.Name)
		}
	}
}

// restoreReturned restores a node as the only one who is at it: a termination that begins now has to close it again.
func (w *job) restoreReturned(ctx context.Context, k Kubernetes, m CordonedNode) (restored bool, err error) {
	lease, err := k.AcquireLease(ctx, w.InstanceID, w.hasten)
	if err != nil || lease == nil {
		return false, err
	}
	w.drainer.Records = lease
	defer w.releaseLease(lease)
	instances, err := w.Groups.Instances(ctx, w.Group)
	if err != nil {
		return false, err
	}
	switch instanceOf(instances, w.InstanceID).State {
	case inService:
		restored, err = k.Restore(ctx, m.Node, m.Hook)
		err = errors.Join(err, w.undoEscorts(ctx, k, m.Node))
		return restored && err == nil, err
	case retained: // closed it stays, but no pooler paused
		return false, w.undoEscorts(ctx, k, m.Node)
	}
	return false, nil
}
