package drain

import "time"

// unreachableGrace is how long a node must be unreachable before its terminating pods are not waited for any more. When the control
// plane returns from an outage, it counts every kubelet as unreachable until the kubelet's next heartbeat, some ten seconds later
// (https://kubernetes.io/docs/reference/node/node-status/#heartbeats). A longer wait would gain nothing.
const unreachableGrace = 15 * time.Second

// checkKubelet notes whether the node is unreachable, and returns when to check again. The pods of a node that is reachable again are
// waited for again.
func (r *run) checkKubelet(now time.Time) (wake time.Time) {
	before := r.node.Unreachable
	if !r.cluster.Node().Unreachable {
		r.unreachableSince, r.node.Unreachable = time.Time{}, false
	} else {
		if r.unreachableSince.IsZero() {
			r.unreachableSince = now
		}
		var over bool
		over, wake = reached(r.unreachableSince.Add(unreachableGrace), now)
		r.node.Unreachable = before || over
	}
	switch {
	case r.node.Unreachable && !before:
		r.Log.Warn("kubelet unreachable")
	case before && !r.node.Unreachable:
		r.Log.Info("kubelet reachable again")
	}
	return wake
}
