package pooler

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// turnInterval is how often to ask whether it is the pod's turn: the one before it takes seconds at least.
	turnInterval = time.Second
	// turnShare is which part of the drain's time may go by waiting for the turn. The rest is for escorting the pod, and for
	// those after it.
	turnShare = 2
	// turnFaults is how often in a row the API server may fail to say whose turn it is. An escort that cannot know goes on
	// unguarded rather than not at all.
	turnFaults = 5
)

// turn waits until no other pooler of the group is being stopped, and until another could take its clients. If that takes
// too long, the pod leaves without, and it is said. Leave ends the turn.
func (e *run) turn(ctx context.Context) (leave func(), err error) {
	until := time.Now().Add(e.turnPatience(ctx))
	release, err := e.lease(ctx, until)
	if err != nil {
		return nil, err
	}
	if err := e.awaitPeer(ctx, until); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// turnPatience is limited by the phase's timeout as well, after which the next phase goes on without waiting for it.
func (e *run) turnPatience(ctx context.Context) time.Duration {
	patience := cmp.Or(e.Patience, e.Timeout)
	if limit, has := e.limit(ctx); has {
		patience = min(patience, time.Until(limit)/turnShare)
	}
	return patience
}

// lease waits for the group's.
func (e *run) lease(ctx context.Context, until time.Time) (leave func(), err error) {
	leave = func() {}
	name := "quiesce-pooler-" + cmp.Or(e.owner().UID, e.pod.UID)
	err = e.inTurn(ctx, until, "another pooler of its group was being stopped all the time", func() (bool, error) {
		release, held, err := e.k.AcquireGroupLease(ctx, name)
		if err == nil && held {
			leave = func() { e.letGo(release) }
		}
		return held, err
	})
	return leave, err
}

func (e *run) letGo(release func() error) {
	if err := release(); err != nil {
		e.log.Warn("the group's lease ends by itself", "error", err.Error())
	}
}

// awaitPeer waits while another pooler that could take the clients is on its way.
func (e *run) awaitPeer(ctx context.Context, until time.Time) error {
	around, err := e.k.Selectors(ctx, e.owned())
	if err != nil {
		e.log.Warn("what surrounds the pooler is not known", "error", err.Error())
	}
	return e.inTurn(ctx, until, "no other pooler of its group is ready", func() (bool, error) {
		peers, err := e.k.Peers(ctx, e.owned())
		return err == nil && !worthWaiting(peers, e.pod.Ref, around.Replicas), err
	})
}

// owned is the pod as its owner knew it.
func (e *run) owned() escort.Pod {
	pod := e.pod
	pod.Owner = e.owner()
	return pod
}

// worthWaiting: no peer that stays is ready, but one is to come. Where all that there is leaves or there is nothing else,
// waiting would change nothing: the owner makes no other before one has gone.
func worthWaiting(peers []escort.Peer, own drain.Ref, replicas int) bool {
	running, coming := 0, false
	for _, p := range peers {
		switch {
		case p.Terminating:
			continue
		case p.Ref == own || p.NodeLeaving:
		case p.Ready:
			return false
		default:
			coming = true
		}
		running++
	}
	return coming || len(peers) > 0 && running < replicas
}

// inTurn asks until it is so. When time is over, or nobody can tell, the reason says why the pod leaves all the same.
func (e *run) inTurn(ctx context.Context, until time.Time, otherwise string, ask func() (bool, error)) error {
	faults := 0
	err := poll(ctx, until, turnInterval, func() (bool, error) {
		is, err := ask()
		if err == nil {
			faults = 0
			return is, nil
		}
		if faults++; faults == turnFaults {
			return false, fmt.Errorf("its turn is not known: %w", err)
		}
		return false, nil
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case unlessOverran(err) == nil:
		e.because(otherwise)
	default:
		e.because(err.Error())
	}
	return nil
}
