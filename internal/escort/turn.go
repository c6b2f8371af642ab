package escort

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"quiesce/internal/drain"
)

const (
	// turnInterval is how often to ask whether it is the pod's turn. The pod before it takes seconds at least.
	turnInterval = time.Second
	// turnErrors is how many times in a row a permission must be missing to end the wait: one may just have been granted. An API server
	// that fails is asked until the deadline. Otherwise seconds of errors would stop all pods of a group at once.
	turnErrors = 5
)

// TurnTaker is the cluster as pods that take turns see it.
type TurnTaker interface {
	// Peers returns the pods of the same owner, this one included. It returns none for a pod without an owner that has a selector.
	Peers(ctx context.Context, p Pod) ([]Peer, error)
	// AcquireGroupLease acquires the Lease of this name, in the function's own namespace, and renews it until release is called. It
	// reports false if another holds it.
	AcquireGroupLease(ctx context.Context, name string) (release func() error, acquired bool, err error)
}

// Turn makes the pods of a group stop one at a time, across all drains.
type Turn struct {
	Cluster  TurnTaker
	Lease    string    // name of the group's Lease
	Deadline time.Time // when the pod stops without its turn
	Log      *slog.Logger
}

// Acquire waits for the group's Lease. If it is not free by the deadline, or cannot be had, the reason says so and release does
// nothing. The error is the cause of ctx.
func (t Turn) Acquire(ctx context.Context) (release func(), reason string, err error) {
	release = func() {}
	reason, err = t.await(ctx, "another pod of its group was being stopped until the timeout", func() (bool, error) {
		free, acquired, err := t.Cluster.AcquireGroupLease(ctx, t.Lease)
		if err == nil && acquired {
			release = func() { t.release(free) }
		}
		return acquired, err
	})
	return release, reason, err
}

func (t Turn) release(free func() error) {
	if err := free(); err != nil {
		t.Log.Warn("failed to release group lease, it will expire", "error", err.Error())
	}
}

// AwaitPeer waits while a peer that could take the pod's clients is starting. Replicas is how many pods the owner wants. The reason
// says why the pod stops without a ready peer.
func (t Turn) AwaitPeer(ctx context.Context, pod Pod, replicas int) (reason string, err error) {
	return t.await(ctx, "no other pod of its group is ready", func() (bool, error) {
		peers, err := t.Cluster.Peers(ctx, pod)
		return err == nil && !worthWaiting(peers, pod.Ref, replicas), err
	})
}

// worthWaiting reports whether no peer that stays is ready, but one is to come. Waiting changes nothing if every peer is about to
// stop, or if there is no peer: the owner makes no other pod before one is gone.
func worthWaiting(peers []Peer, own drain.Ref, replicas int) bool {
	running, starting := 0, false
	for _, p := range peers {
		switch {
		case p.Terminating:
			continue
		case p.Ref == own || p.NodeLeaving:
		case p.Ready:
			return false
		default:
			starting = true
		}
		running++
	}
	return starting || len(peers) > 0 && running < replicas
}

// await polls the condition. At the deadline it returns the timeout's reason, or the last error; after turnErrors missing permissions in a
// row, the last one.
func (t Turn) await(ctx context.Context, timeout string, condition func() (bool, error)) (reason string, err error) {
	denied := 0
	var failure error
	err = Poll(ctx, t.Deadline, turnInterval, func() (bool, error) {
		var met bool
		if met, failure = condition(); !errors.Is(failure, ErrForbidden) {
			denied = 0
			return met && failure == nil, nil
		}
		if denied++; denied == turnErrors {
			return false, failure
		}
		return false, nil
	})
	switch {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case failure != nil:
		return "cannot take turns with its group: " + failure.Error(), nil
	default:
		return timeout, nil
	}
}
