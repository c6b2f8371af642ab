package termination

import (
	"sync"

	"quiesce/internal/drain"
)

// reportGone tells the Lease when the first pod is gone: an invocation that achieves something is not one that ends uncleanly.
func (j *job) reportGone(pods drain.Cluster) drain.Cluster {
	if j.lease == nil {
		return pods
	}
	return &goneReporter{Cluster: pods, gone: j.lease.PodGone, seen: map[string]bool{}}
}

// goneReporter is a watched node. When one of its pods is gone, it calls gone, once.
type goneReporter struct {
	drain.Cluster
	mutex sync.Mutex
	gone  func()          // nil: it was called
	seen  map[string]bool // by UID
}

// Pods implements drain.Cluster.
func (n *goneReporter) Pods() []drain.Pod {
	pods := n.Cluster.Pods()
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.gone == nil {
		return pods
	}
	here := make(map[string]bool, len(pods))
	for _, p := range pods {
		here[p.UID] = true
	}
	for uid := range n.seen {
		if !here[uid] {
			n.gone()
			n.gone, n.seen = nil, nil
			return pods
		}
	}
	n.seen = here
	return pods
}
