package pooler

import (
	"cmp"
	"context"
	"time"

	"quiesce/internal/escort"
)

// turnShare is the part of the drain's time that may pass before the pod's turn: one half. The rest is for draining this pod and the
// ones after it.
const turnShare = 2

// awaitTurn waits until no other pooler of the group is being stopped, and until another could take its clients. At the deadline the
// pod stops without its turn, and the result says so. Release ends the turn.
func (r *run) awaitTurn(ctx context.Context, deadline time.Time) (release func(), err error) {
	turn := escort.Turn{Cluster: r.cluster, Lease: escort.PoolerLease(r.ownedPod()), Deadline: deadline, Log: r.log}
	release, reason, err := turn.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	kept, giveBack := false, release
	defer func() {
		if !kept { // also after a panic: a Lease is renewed until it is released
			giveBack()
		}
	}()
	r.addReason(reason)
	reason, err = turn.AwaitPeer(ctx, r.ownedPod(), r.selectorsOrNone(ctx).Replicas)
	if err != nil {
		return nil, err
	}
	r.addReason(reason)
	kept = true
	return release, nil
}

// turnDeadline returns when the pod stops without its turn, if it begins to wait now.
func (r *run) turnDeadline(ctx context.Context) time.Time { return time.Now().Add(r.turnTimeout(ctx)) }

// turnTimeout is limited by the phase's timeout too. After that, the next phase does not wait for the pod.
func (r *run) turnTimeout(ctx context.Context) time.Duration {
	timeout := cmp.Or(r.PhaseTimeout, r.Timeout)
	if deadline, limited := r.drainDeadline(ctx); limited {
		timeout = min(timeout, time.Until(deadline)/turnShare)
	}
	return timeout
}
