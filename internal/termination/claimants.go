package termination

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"quiesce/internal/drain"
)

// maxClaimants bounds how many more nodes are drained that claim the instance. Two are an accident; hundreds are made by someone, and
// each costs a watch.
const maxClaimants = 10

// addClaimants prepares the drains of other nodes that claim the instance, and that have pods.
func (j *job) addClaimants(ctx, watching context.Context, cluster Kubernetes, nodes []drain.Node) error {
	if more := len(nodes) - maxClaimants; more > 0 {
		j.notes = append(j.notes, fmt.Sprintf("%d more nodes claim the instance, and are not drained", more))
		nodes = nodes[:maxClaimants]
	}
	for _, node := range nodes {
		d := j.newNodeDrain(cluster, node)
		if err := d.watch(ctx, watching); err != nil {
			return err
		}
		if len(d.pods.Pods()) == 0 {
			continue
		}
		if d.close(ctx) == nil { // else it is not the instance's any more
			j.drains = append(j.drains, d)
		}
	}
	return nil
}

// evict evicts the pods of all nodes, until all of them are empty at the same time. It returns the cause that ended the drain's time, if
// it has ended.
func (j *job) evict(ctx context.Context) (cause error) {
	if len(j.drains) == 1 {
		return j.drains[0].evict(ctx)
	}
	for {
		if cause = j.evictAll(ctx); cause != nil || !slices.ContainsFunc(j.drains, (*nodeDrain).hasArrivals) {
			return cause
		}
	}
}

// eachDrain runs a step for all nodes at once.
func (j *job) eachDrain(step func(n int, d *nodeDrain)) {
	var group sync.WaitGroup
	panics := make([]any, len(j.drains))
	for n, d := range j.drains {
		group.Go(func() {
			defer func() { panics[n] = recover() }()
			step(n, d)
		})
	}
	group.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p) // as if it were ours: it fails this record, and not the process
		}
	}
}

// evictAll evicts the pods of all nodes once. A node that is empty before the others is watched until the last of them is: it may be
// opened, and filled again.
func (j *job) evictAll(ctx context.Context) (cause error) {
	together := &together{busy: len(j.drains), over: make(chan struct{})}
	causes := make([]error, len(j.drains))
	j.eachDrain(func(i int, d *nodeDrain) { causes[i] = d.evictWith(ctx, together) })
	for _, c := range causes {
		if c != nil {
			return c
		}
	}
	return nil
}

// together counts the drains of one instance's nodes that are under way.
type together struct {
	mutex sync.Mutex
	busy  int
	over  chan struct{} // closed when none is
}

func (t *together) end() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.busy--; t.busy == 0 {
		close(t.over)
	}
}

// begin reports whether another drain is still under way, and counts one more.
func (t *together) begin() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.busy > 0 {
		t.busy++
		return true
	}
	return false
}

// evictWith evicts the node's pods, and does so again whenever there is something to do and another node is not empty.
func (d *nodeDrain) evictWith(ctx context.Context, others *together) error {
	for {
		cause := d.evictOnce(ctx, others)
		if cause != nil || d.isReplaced() || !d.awaitWork(others) {
			return cause
		}
	}
}

func (d *nodeDrain) evictOnce(ctx context.Context, others *together) error {
	defer others.end()
	return d.evict(ctx)
}

// awaitWork returns true when the node was opened or filled, and false when all nodes are empty.
func (d *nodeDrain) awaitWork(others *together) bool {
	wasUnreachable := d.pods.Node().Unreachable
	for {
		select {
		case <-others.over:
			return false
		case <-d.pods.Changed():
		}
		if d.hasWork(wasUnreachable) && others.begin() {
			return true
		}
	}
}

// hasWork reports whether there is something to do again since the node's drain ended: somebody opened or replaced the node, its kubelet
// is back, or pods came.
func (d *nodeDrain) hasWork(wasUnreachable bool) bool {
	now := d.pods.Node()
	return now.Replaced || now.Uncordoned && d.drainer.Recordon != nil || wasUnreachable && !now.Unreachable || d.hasArrivals()
}

// hasArrivals reports whether pods came since the node's drain ended.
func (d *nodeDrain) hasArrivals() bool {
	if d.isReplaced() {
		return false
	}
	return slices.ContainsFunc(d.drainer.Evictable(d.pods.Pods(), d.node), func(p drain.Pod) bool {
		return !slices.ContainsFunc(d.report.Pods, func(known drain.PodReport) bool { return known.UID == p.UID })
	})
}

// gatherReports makes the job's report of those of its nodes. Pods of any node but the first are given its name.
func (j *job) gatherReports() {
	j.report.Report = j.drains[0].report
	j.report.Pods = slices.Clip(j.report.Pods) // those of the drain stay as they are
	for _, d := range j.drains[1:] {
		for _, p := range d.report.Pods {
			p.Node = d.node.Name
			j.report.Pods = append(j.report.Pods, p)
		}
		j.report.FinishedPods += d.report.FinishedPods
		j.report.OmittedPods += d.report.OmittedPods
		j.report.Recordons += d.report.Recordons
	}
}
