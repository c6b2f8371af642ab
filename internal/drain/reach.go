package drain

import "time"

// lostPatience is for how long a node must have been unreachable before nobody is waited for there any more. When the control
// plane comes back from an outage, it takes every kubelet for lost until that one's next heartbeat, some ten seconds later
// (https://kubernetes.io/docs/reference/node/node-status/#heartbeats). Longer would only be waited in vain.
const lostPatience = 15 * time.Second

// look notes whether the node is unreachable, and says when to look again. A node that comes back is waited for again.
func (r *run) look(now time.Time) (again time.Time) {
	before := r.node.Unreachable
	if !r.cluster.Unreachable() {
		r.lost, r.node.Unreachable = time.Time{}, false
	} else {
		if r.lost.IsZero() {
			r.lost = now
		}
		var over bool
		over, again = at(r.lost.Add(lostPatience), now)
		r.node.Unreachable = before || over
	}
	switch {
	case r.node.Unreachable && !before:
		r.Log.Warn("kubelet unreachable")
	case before && !r.node.Unreachable:
		r.Log.Info("kubelet heard of again")
	}
	return again
}
