package pooler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// replacementInterval is how often a surge looks for the replacement, and at the Services. It is far less than a pod takes to become
	// Ready. Each look costs a request for the pods and one for each of their nodes: few pods, for a short time.
	replacementInterval = 250 * time.Millisecond
	// servicesTimeout bounds the wait for Services to drop the pod, and then the one for node proxies: some seconds on a slow day. A
	// client that still logs in after that has its address from elsewhere, and would do so for ever.
	servicesTimeout = 10 * time.Second
	// minShutdownTime is what a liveness probe must allow a shutdown for a surge to be of use.
	minShutdownTime = 2 * time.Second
)

// surge replaces the pooler before it stops. With one label removed, it still serves its clients, and its ReplicaSet makes another pod
// in its place. It stops only when that one serves. Fallback says why this was not done, or not completed; then it is rolled back.
func (r *run) surge(ctx context.Context) (fallback string, err error) {
	selectors, err := r.selectors(ctx)
	if err != nil {
		return "surge not possible: " + err.Error(), nil
	}
	key, reason := preflight(r.pod, selectors)
	if reason == "" {
		reason = r.livenessTooShort()
	}
	if reason != "" {
		return "surge not possible: " + reason, nil
	}
	if err := r.saveRecord(ctx, record{Strategy: config.StrategySurge, Labels: map[string]string{key: r.pod.Labels[key]}}); err != nil {
		return r.abandonSurge(ctx, err)
	}
	r.log.Info("surge started", "label", key, "replicas", selectors.Replicas)
	if err := r.awaitReplacement(ctx, selectors.Replicas); err != nil {
		return r.abandonSurge(ctx, err)
	}
	return r.finishSurge(ctx)
}

// livenessTooShort returns why a shutdown could not be completed; empty: it could.
func (r *run) livenessTooShort() (reason string) {
	if limit, limited := r.method().livenessLimit(); limited && limit < minShutdownTime {
		return fmt.Sprintf("its liveness probe ends a shutdown that takes longer than %v", limit)
	}
	return ""
}

// resumeSurge continues a surge whose escort crashed, if the replacement is ready. Otherwise it rolls back.
func (r *run) resumeSurge(ctx context.Context) (done bool, err error) {
	// Clients that wait because of the crash wait no longer. A shutdown continues.
	if err := r.resumePooler(withoutCancel(ctx)); err != nil && !errors.Is(err, pgbouncer.ErrShuttingDown) {
		return false, fmt.Errorf("continue an interrupted surge: %w", err)
	}
	if err := r.checkReplaced(ctx); err != nil {
		_, err := r.abandonSurge(ctx, err)
		return false, err
	}
	r.result.Strategy = string(config.StrategySurge)
	fallback, err := r.finishSurge(ctx)
	return fallback == "" && err == nil, err
}

// abandonSurge rolls the surge back and returns the reason, unless ctx has ended.
func (r *run) abandonSurge(ctx context.Context, reason error) (fallback string, err error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	r.log.Info("surge abandoned", "reason", reason.Error())
	if err := r.rollBack(ctx); err != nil {
		return "", err
	}
	return reason.Error(), nil
}

// awaitReplacement waits until the owner has all its pods without this one. Where the pod must be evicted by a moment, half of the time
// is kept for stopping it without a replacement.
func (r *run) awaitReplacement(ctx context.Context, replicas int) error {
	timeout := r.PhaseTimeout
	if !r.request.EvictBy.IsZero() {
		timeout = min(timeout, time.Until(r.request.EvictBy)/turnShare)
	}
	var failure error
	err := escort.Poll(ctx, time.Now().Add(timeout), replacementInterval, func() (bool, error) {
		var peers []escort.Peer
		peers, failure = r.cluster.Peers(ctx, r.ownedPod())
		return replaced(peers, r.pod.UID, replicas), nil
	})
	if err != nil {
		return timeoutError(err, fmt.Sprintf("no replacement was Ready in %v", timeout.Round(time.Second)), failure)
	}
	r.log.Info("replacement ready")
	return nil
}

// checkReplaced returns an error unless the owner has all its pods. The owner has orphaned this one, but the record names the owner.
func (r *run) checkReplaced(ctx context.Context) error {
	selectors, err := r.selectors(ctx)
	if err != nil {
		return err
	}
	peers, err := r.cluster.Peers(ctx, r.ownedPod())
	if err == nil && !replaced(peers, r.pod.UID, selectors.Replicas) {
		err = errors.New("an interrupted surge had no Ready replacement")
	}
	return err
}

// replaced reports whether the owner has all its pods without this one. Pods on other nodes that are being drained count for the owner:
// it replaces them only when they are gone, and that may be after this pod.
func replaced(peers []escort.Peer, own string, replicas int) bool {
	ready, draining := 0, 0
	for _, peer := range peers {
		switch {
		case peer.UID == own || peer.Terminating:
		case peer.NodeLeaving:
			draining++
		case peer.Ready:
			ready++
		}
	}
	return ready >= max(1, replicas-draining)
}

// finishSurge stops a pooler that is not needed any more, and evicts its pod. No PDB protects it now.
func (r *run) finishSurge(ctx context.Context) (fallback string, err error) {
	if err := r.awaitNotServing(ctx); err != nil {
		return r.abandonSurge(ctx, err)
	}
	if err := r.awaitServicesRemoved(ctx, time.Now().Add(servicesTimeout)); err != nil {
		return "", err
	}
	if err := r.awaitClientsLeaving(ctx, time.Now().Add(leavingTime)); err != nil {
		return "", err
	}
	r.setDeadline(ctx, 0)
	return "", r.method().stopThenEvict(ctx)
}

// awaitNotServing waits until no Service sends clients to the pod.
func (r *run) awaitNotServing(ctx context.Context) error {
	var failure error
	err := escort.Poll(ctx, time.Now().Add(servicesTimeout), replacementInterval, func() (bool, error) {
		var serving bool
		serving, failure = r.cluster.Serving(ctx, r.pod.Ref)
		return !serving && failure == nil, nil
	})
	return timeoutError(err, fmt.Sprintf("a Service still sent clients to it after %v", servicesTimeout), failure)
}

// timeoutError describes a timeout and the last failure before it. Any other error it returns as it is.
func timeoutError(err error, description string, failure error) error {
	switch {
	case !errors.Is(err, escort.ErrTimeout):
		return err
	case failure != nil:
		return fmt.Errorf("%s: %w", description, failure)
	default:
		return errors.New(description)
	}
}
