package kube

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// Unfinished is a Lease whose holders have changed something that outlives them: poolers that may be paused.
type Unfinished struct {
	termination.LeaseInfo
	Holder  string    // empty: it was released
	Renewed time.Time // zero: never
	Mark    string    // of a move; empty: none
	Pods    []string  // UIDs of pods that escorts have changed, by the instance's drain; without those that have the only copy of data
}

// Expires returns when others may take the Lease, unless its holder renews it.
func (u Unfinished) Expires() time.Time { return u.Renewed.Add(leaseDuration) }

// Unfinished returns the Leases that have a mark or records of escorts.
func (c *Client) Unfinished(ctx context.Context) (all []Unfinished, err error) {
	err = c.eachLease(ctx, func(l *coordinationv1.Lease) {
		u := Unfinished{
			LeaseInfo: c.leaseInfo(l), Holder: holderOf(l), Mark: l.Annotations[pausedAnnotation],
			Pods: slices.DeleteFunc(escortedPods(l), func(uid string) bool {
				return drain.SaysOnlyCopy(l.Annotations[ourAnnotation+drain.EscortRecord+uid]) // poolers that it still holds are in the mark of the move
			}),
		}
		if renewed := l.Spec.RenewTime; renewed != nil {
			u.Renewed = renewed.Time
		}
		if u.Mark != "" || len(u.Pods) > 0 {
			all = append(all, u)
		}
	})
	return all, err
}

func escortedPods(l *coordinationv1.Lease) (uids []string) {
	for _, key := range slices.Sorted(maps.Keys(l.Annotations)) {
		if uid, is := strings.CutPrefix(key, ourAnnotation+drain.EscortRecord); is {
			uids = append(uids, uid)
		}
	}
	return uids
}

// TakingOver returns a client that takes Leases which others hold. It is for people who know that no invocation runs any more. One that
// runs all the same learns of it at its next renewal, and meanwhile goes on.
func (c *Client) TakingOver() *Client {
	return &Client{
		config: c.config, connections: c.connections, moved: c.moved, core: c.core, policy: c.policy, coordination: c.coordination, storage: c.storage, takesOver: true,
	}
}

// mayTake reports whether this client may take the Lease.
func (c *Client) mayTake(l *coordinationv1.Lease) bool { return c.takesOver || isFree(l) }
