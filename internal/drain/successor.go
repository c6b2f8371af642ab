package drain

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

const (
	// clockMargin is by how much the clocks of the function and of the API server may differ when a pod's creation is compared with the
	// cordon. Creation times are whole seconds, too. A larger margin would mistake more successors for pods that were there before.
	clockMargin = 5 * time.Second
	// recordTimeout bounds the record that a successor is told to stop. Without the record the next invocation may tell one more.
	recordTimeout = 5 * time.Second
	// keyHashBytes is how much of a namespace's hash is part of a key. With a UID it fits into the 63 characters of an annotation's name.
	keyHashBytes = 8
	// finalTries is how often a pod that came back is deleted before the node is terminated, while that fails. One failure may be chance.
	finalTries = 3
)

// exception is why a pod is not treated like others that are there.
type exception struct {
	reason   string
	cameBack bool // its controller brings pods back to this node; else it cannot be stopped
}

// exceptions returns the pods that the drain does not want to go, by UID. It sets candidates.
func (r *run) exceptions(pods []Pod) map[string]exception {
	found := map[string]exception{}
	r.candidates = map[string]string{}
	for _, p := range r.newcomers(pods) {
		key := controllerKey(p)
		if cmp.Or(r.askedSuccessor(key), r.candidates[key], p.UID) == p.UID {
			r.candidates[key] = p.UID
			continue
		}
		found[p.UID] = exception{"came back: " + controllerName(p) + " brings its pods to this node though it is closed", true}
	}
	for _, p := range pods {
		if why := r.unstoppable(p); why != "" {
			found[p.UID] = exception{reason: why}
		}
	}
	return found
}

// unstoppable returns why the drain does not wait for the pod: its eviction failed, and nothing could stop the pod anyway.
func (r *run) unstoppable(p Pod) string {
	known := r.state.pods[p.Ref]
	if known == nil || p.Terminating() || (known.latest != blocked && known.latest != never && known.latest != refused) {
		return ""
	}
	switch {
	case r.node.Gone:
		return instanceGone
	case r.node.Unreachable:
		return kubeletUnreachable
	}
	return ""
}

// newcomers returns the pods that came after the node was closed, the oldest first.
func (r *run) newcomers(pods []Pod) []Pod {
	var late []Pod
	for _, p := range pods {
		stays := isMirror(p, r.node) || isFinished(p, r.node) || isDaemon(p, r.node) || optedOut(p, r.node) || p.Terminating()
		if !stays && r.cameAfterClosing(p) {
			late = append(late, p)
		}
	}
	slices.SortFunc(late, func(a, b Pod) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return late
}

// cameAfterClosing reports whether the pod was created when the node was closed already. What is known of a pod that the watch saw
// arrive is believed first: it was bound after the first list, and its creation excludes that it had waited to be scheduled.
func (r *run) cameAfterClosing(p Pod) bool {
	if known := r.state.pods[p.Ref]; known != nil && known.ordinary {
		return false
	}
	closed := cmp.Or(r.node.Cordoned, r.state.began)
	if closed.IsZero() {
		return false
	}
	return p.Created.After(closed.Add(clockMargin)) || (p.CreatedAfterCordon && p.Created.After(closed.Add(-clockMargin)))
}

// noteClosed notes that the pods that are there now were there when the node was closed.
func (r *run) noteClosed() {
	for _, p := range r.cluster.Pods() {
		if known := r.state.pods[p.Ref]; known != nil {
			known.ordinary = true
		}
	}
}

// controllerKey identifies the pod's controller in a record; for pods without one, their namespace. The namespace is always part of it:
// the author of a pod chooses the UID of its owner, and must not affect controllers of other namespaces.
func controllerKey(p Pod) string {
	hash := sha256.Sum256([]byte(p.Namespace))
	return fmt.Sprintf("%s.%x", cmp.Or(p.ControllerUID, "namespace"), hash[:keyHashBytes])
}

// controllerName names the pod's controller for people.
func controllerName(p Pod) string {
	if p.Controller == "" {
		return "something in namespace " + p.Namespace
	}
	return p.Controller + " " + p.Namespace + "/" + p.ControllerName
}

// askedSuccessor returns the UID of the controller's pod that came back and was told to stop; empty: none was.
func (r *run) askedSuccessor(key string) string {
	if asked := r.state.asked[key]; asked != "" || r.Records == nil {
		return asked
	}
	return r.Records.Record(SuccessorRecord + key)
}

// noteSuccessor notes a request about a pod that came after the cordon: it is the only one that its controller gets. It returns what
// keeps that for later invocations; nil: nothing is to be kept.
func (r *run) noteSuccessor(p Pod) func() {
	key := controllerKey(p)
	if r.candidates[key] != p.UID {
		return nil
	}
	known := r.askedSuccessor(key) != ""
	r.state.asked[key] = p.UID
	if known || r.Records == nil {
		return nil
	}
	return func() {
		ctx, cancel := context.WithTimeout(r.requests, recordTimeout)
		defer cancel()
		if err := r.Records.SetRecord(ctx, SuccessorRecord+key, p.UID); err != nil {
			r.Log.Warn("failed to record successor", "pod", p.String(), "error", Short(err.Error()))
		}
	}
}

// chooseFinal chooses the pods that came back and are told to stop now, because the node is terminated: those that are due, or all when
// nothing else is to be done. Each controller has one such moment, so that it ends however fast pods come back.
func (r *run) chooseFinal(plan Plan) {
	idle, keys := plan.Done() && r.isIdle(), map[string]bool{}
	for _, pod := range plan.Pods {
		if pod.cameBack && (idle || pod.Due) && !r.state.ended[controllerKey(pod.Pod)] {
			keys[controllerKey(pod.Pod)] = true
		}
	}
	for _, pod := range plan.Pods {
		if pod.cameBack && keys[controllerKey(pod.Pod)] {
			r.state.pods[pod.Ref].final, r.state.ended[controllerKey(pod.Pod)] = true, true
		}
	}
}

// needsFinalSignal reports whether a pod that came back is still to be told to stop.
func (r *run) needsFinalSignal() bool {
	for _, p := range r.state.pods {
		if p.needsFinalSignal() {
			return true
		}
	}
	return false
}

// awaitsFinalEffect reports whether a pod that came back was told to stop, and is not yet seen to stop: the response may come before the
// watch's event. Once it is seen, the drain waits for its end. Without that the node went at once, and the pod had none of its grace.
func (r *run) awaitsFinalEffect(pods []Planned, now time.Time) bool {
	return slices.ContainsFunc(pods, func(pod Planned) bool {
		p := r.state.pods[pod.Ref]
		told := Later(p.line.EvictedAt, p.line.ForcedAt)
		return p.final && p.isSignaled() && !pod.Terminating() && now.Sub(told) < acceptedRecheck
	})
}

func (p *progress) needsFinalSignal() bool {
	return p.final && !p.isSignaled() && p.line.GoneAt.IsZero() && p.finalRequests < finalTries
}

// isSignaled reports whether a request of ours told the pod to stop.
func (p *progress) isSignaled() bool { return !p.line.EvictedAt.IsZero() || !p.line.ForcedAt.IsZero() }

// nextFinal decides about a pod that came back.
func (c conditions) nextFinal(p progress) (action, time.Time) {
	switch {
	case !p.needsFinalSignal():
		return doNothing, time.Time{}
	case !c.hasRoom(true):
		return doNothing, c.lastChance(true)
	case c.now.Before(p.retryAt):
		return doNothing, p.retryAt
	case c.limits.Force || c.limits.Deadline.IsZero():
		return doDelete, time.Time{}
	}
	return doEvict, time.Time{}
}
