package pooler

import (
	"context"
	"errors"
	"fmt"
	"quiesce/internal/config"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"time"
)

const (
	// replacementInterval is how often a surge looks for the replacement, and at the Services. It is far less than what a pod takes
	// to become Ready, and costs a request for the pods and one for each of their nodes: few pods, for a short time.
	replacementInterval = 250 * time.Millisecond
	// moveTimeout bounds the wait for Services to have turned away from the pooler, and then the one for node proxies: some
	// seconds on a slow day. Who still logs in after that has its address from elsewhere, and would do so for ever.
	moveTimeout = 10 * time.Second
	// quietTime is how long nobody must have logged in before the node proxies are taken to have moved. They gather changes for
	// a second, by default (https://kubernetes.io/docs/reference/networking/virtual-ips/#optimize-iptables-mode-performance);
	// this leaves them another. Less risks refused connections, more only time.
	quietTime = 2 * time.Second
	// clientsInterval is how often the clients are counted: 300 bytes each, by a pooler with one thread, which has real work.
	clientsInterval = 250 * time.Millisecond
	// lingerTime is how long clients may go on leaving by themselves, which spares each of them a closed connection, and
	// lingerPatience for how long none has to leave before the rest are taken to stay. Pools that recycle their connections do so
	// each minutes or hours: more patience would hardly catch more of them.
	lingerTime     = 5 * time.Second
	lingerPatience = 1500 * time.Millisecond
)

// surge has the pooler replaced before it leaves. With one label taken off, it serves on for who is connected, and its
// ReplicaSet makes another in its place; it is stopped only when that one serves. Fallback is why this was not done, or not
// to the end; then nothing is left of it.
func (e *run) surge(ctx context.Context) (fallback string, err error) {
	around, err := e.k.Selectors(ctx, e.pod)
	if err != nil {
		return "surge is not possible: " + err.Error(), nil
	}
	key, why := preflight(e.pod, around)
	if why == "" {
		why = e.probed()
	}
	if why != "" {
		return "surge is not possible: " + why, nil
	}
	if err := e.mark(ctx, Note{Strategy: config.StrategySurge, Labels: map[string]string{key: e.pod.Labels[key]}}); err != nil {
		return e.giveUp(ctx, err)
	}
	e.log.Info("surge begun", "label", key, "replicas", around.Replicas)
	if err := e.awaitReplacement(ctx, around.Replicas); err != nil {
		return e.giveUp(ctx, err)
	}
	return e.leave(ctx)
}

// finishSurge goes on with a surge whose escort crashed, if the replacement is there, and otherwise undoes it.
func (e *run) finishSurge(ctx context.Context) (done bool, err error) {
	// Whoever waits because of the crash waits no longer. A shutdown goes on.
	if err := e.console.Resume(steady(ctx)); err != nil && !errors.Is(err, pgbouncer.ErrShuttingDown) {
		return false, fmt.Errorf("finish a surge: %w", err)
	}
	if err := e.wasReplaced(ctx); err != nil {
		_, err := e.giveUp(ctx, err)
		return false, err
	}
	e.result.Strategy = string(config.StrategySurge)
	fallback, err := e.leave(ctx)
	return fallback == "" && err == nil, err
}

// giveUp undoes the surge, and says why, unless nobody waits for that any more.
func (e *run) giveUp(ctx context.Context, why error) (fallback string, err error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	e.log.Info("surge given up", "reason", why.Error())
	if err := e.undo(ctx); err != nil {
		return "", err
	}
	return why.Error(), nil
}

// awaitReplacement leaves the pooler as it is until the owner has all its pods without this one. Where the pod is in a hurry, half
// of its time is kept for leaving without a replacement.
func (e *run) awaitReplacement(ctx context.Context, replicas int) error {
	patience := e.Patience
	if !e.request.EvictBy.IsZero() {
		patience = min(patience, time.Until(e.request.EvictBy)/turnShare)
	}
	var fault error
	err := poll(ctx, time.Now().Add(patience), replacementInterval, func() (bool, error) {
		var peers []escort.Peer
		peers, fault = e.k.Peers(ctx, e.owned())
		return replaced(peers, e.pod.UID, replicas), nil
	})
	if err != nil {
		return inVain(err, fmt.Sprintf("no replacement was Ready in %v", patience.Round(time.Second)), fault)
	}
	e.log.Info("replacement is ready")
	return nil
}

// wasReplaced is nil if the owner has all its pods. It has let go of this one, but the note knows it.
func (e *run) wasReplaced(ctx context.Context) error {
	around, err := e.k.Selectors(ctx, e.owned())
	if err != nil {
		return err
	}
	peers, err := e.k.Peers(ctx, e.owned())
	if err == nil && !replaced(peers, e.pod.UID, around.Replicas) {
		err = errors.New("a surge that crashed had no replacement Ready")
	}
	return err
}

// replaced: pods on other nodes that leave count for the owner, which makes nothing in their place before they go; and that
// may be after this one.
func replaced(peers []escort.Peer, own string, replicas int) bool {
	ready, leaving := 0, 0
	for _, peer := range peers {
		switch {
		case peer.UID == own || peer.Terminating:
		case peer.NodeLeaving:
			leaving++
		case peer.Ready:
			ready++
		}
	}
	return ready >= max(1, replicas-leaving)
}

// leave stops a pooler that is not needed any more, and has its pod evicted, which no budget protects now.
func (e *run) leave(ctx context.Context) (fallback string, err error) {
	if err := e.awaitUnserved(ctx); err != nil {
		return e.giveUp(ctx, err)
	}
	if err := e.moved(ctx, time.Now().Add(moveTimeout)); err != nil {
		return "", err
	}
	if err := e.linger(ctx, time.Now().Add(lingerTime)); err != nil {
		return "", err
	}
	return "", e.stopThenEvict(ctx)
}

// awaitUnserved waits until no Service sends clients to the pod.
func (e *run) awaitUnserved(ctx context.Context) error {
	var fault error
	err := poll(ctx, time.Now().Add(moveTimeout), replacementInterval, func() (bool, error) {
		var serving bool
		serving, fault = e.k.Serving(ctx, e.pod.Ref)
		return !serving && fault == nil, nil
	})
	return inVain(err, fmt.Sprintf("a Service still sent clients to it after %v", moveTimeout), fault)
}

// inVain says what was waited for too long, and what the last look at it met with.
func inVain(err error, what string, fault error) error {
	switch {
	case !errors.Is(err, errOverran):
		return err
	case fault != nil:
		return fmt.Errorf("%s: %w", what, fault)
	default:
		return errors.New(what)
	}
}
