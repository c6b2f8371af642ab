package termination

import (
	"context"
	"slices"
)

// deleteLeases deletes the Leases that were kept for instances that are gone since, those of crashed invocations included.
func (s *sweep) deleteLeases(ctx context.Context) {
	var unseen []string
	for id, lease := range s.leases {
		if isInstance(id) && !lease.Held && !s.seen[id] {
			unseen = append(unseen, id)
		}
	}
	slices.Sort(unseen)
	if len(unseen) == 0 || s.kubernetes == nil || s.Policy.Shadow {
		return
	}
	instances, err := s.Groups.EC2Instances(ctx, unseen...)
	s.addError(err)
	gone := slices.DeleteFunc(unseen, func(id string) bool {
		i, known := instances[id]
		// An instance that is missing is gone only if EC2 has answered for all.
		return known && !i.Terminated || !known && err != nil
	})
	s.forEach(ctx, "Leases of instances that are gone", len(gone), func(n int) {
		s.addError(s.kubernetes.DeleteFreeLease(ctx, gone[n]))
	})
}
