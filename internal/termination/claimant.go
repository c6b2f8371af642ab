package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"quiesce/internal/drain"
)

const (
	// cordonTime bounds the tries to cordon a node. The eviction of pods that return at once is worth less than an eviction in time.
	cordonTime = 5 * time.Second
	// cordonRetry paces them: a throttled API server answers in a second or two.
	cordonRetry = time.Second
)

// nodeDrain is the drain of one node that claims the instance. Usually there is one.
type nodeDrain struct {
	job     *job
	cluster Kubernetes
	node    drain.Node
	drainer drain.Drainer
	log     *slog.Logger
	pods    drain.Cluster // as watched
	report  drain.Report
	state   drain.State // of the eviction, which may resume under a shorter deadline
	denied  error       // why the node, which was tainted or opened, cannot be cordoned; nil: it can

	taintDenied bool
}

func (j *job) newNodeDrain(cluster Kubernetes, node drain.Node) *nodeDrain {
	return &nodeDrain{job: j, cluster: cluster, node: node, drainer: j.drainer, log: j.nodeLog(node.Name)}
}

// nodeLog returns the job's log for what concerns one node. Each line names one node, once.
func (j *job) nodeLog(name string) *slog.Logger {
	return j.Log.With("instance", j.InstanceID, "group", j.Group, "node", name)
}

// close closes the node to new pods: by a cordon, or where a pod may delay that, by a taint. Then the drain cordons it. The only error is
// that of cordon.
func (d *nodeDrain) close(ctx context.Context) (replaced error) {
	if !d.drainer.MayDelayCordon() || d.node.InstanceID == "" { // a taint is put on nodes whose instance is known
		return d.cordon(ctx)
	}
	d.taint(ctx)
	return nil
}

// taint closes the node without a cordon, which operators of databases take for a command. What the Lease says of the node lets a sweep
// remove the taint from an instance that returns. If it fails, the drain tries again: nothing else closes the node until the primary has
// moved.
func (d *nodeDrain) taint(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cordonTime)
	defer cancel()
	j := d.job
	d.drainer.Recordon = d.recordon
	closed := d.closedNow()
	if earlier := j.closedBefore(d.node); earlier != nil && earlier.IsOf(j.Hook, j.Trigger, j.Began) {
		closed.CordonedAt = earlier.CordonedAt
	}
	err := retried(ctx, func() error { return d.tryTaint(ctx, closed) })
	if err == nil {
		d.node.Cordoned, d.node.TaintedOnly = closed.CordonedAt, true
		d.log.Info("node tainted")
		return
	}
	j.continueWithout("taint the node", err)
	if !isFinal(err) {
		d.drainer.Taint = d.taintAgain
	}
}

// taintAgain taints a node whose first taint failed. A denial is final.
func (d *nodeDrain) taintAgain(ctx context.Context) (time.Time, error) {
	closed := d.closedNow()
	err := d.tryTaint(ctx, closed)
	if _, denied := errors.AsType[*drain.Refused](err); denied {
		d.taintDenied = true
	}
	return closed.CordonedAt, err
}

// closedNow returns what the Lease is to say of a node that is closed now. The node may still have what an earlier termination changed.
func (d *nodeDrain) closedNow() ClosedNode {
	j := d.job
	closed := ClosedNode{Name: d.node.Name, UID: d.node.UID, Hook: j.Hook, Trigger: j.Trigger, Began: j.Began, CordonedAt: time.Now().UTC()}
	if earlier := j.closedBefore(d.node); earlier != nil {
		closed.Unschedulable, closed.Excluded = earlier.Unschedulable, earlier.Excluded
		closed.KeptOpen = earlier.KeptOpen && earlier.IsOf(j.Hook, j.Trigger, j.Began)
	}
	return closed
}

// tryTaint taints the node once. The Lease says so first: without that, a sweep could not remove the taint if the instance returns.
func (d *nodeDrain) tryTaint(ctx context.Context, closed ClosedNode) error {
	before := d.job.closedBefore(d.node)
	if before == nil || !before.IsOf(closed.Hook, closed.Trigger, closed.Began) || !before.CordonedAt.Equal(closed.CordonedAt) {
		if err := d.job.saveClosed(ctx, closed); err != nil {
			return fmt.Errorf("record that it is tainted: %w", err)
		}
	}
	return d.cluster.TaintTerminating(ctx, []drain.Node{d.node})
}

// cordon closes the node to new pods. A node that cannot be closed is drained all the same: some pods return, but none is killed without
// a signal. An error that is not a denial may pass, so the drain tries again when it sees that the node is open. The only error is that
// the node was replaced by another one, whose pods are not to be evicted.
func (d *nodeDrain) cordon(ctx context.Context) (replaced error) {
	ctx, cancel := context.WithTimeout(ctx, cordonTime)
	defer cancel()
	var at time.Time
	err := retried(ctx, func() (err error) { at, err = d.tryCordon(ctx); return err })
	if errors.Is(err, drain.ErrNodeReplaced) {
		return err
	}
	if !isFinal(err) {
		d.drainer.Recordon = d.recordon
	}
	if err != nil {
		d.job.continueWithout("cordon", err)
		return nil
	}
	d.node.Cordoned = at
	d.log.Info("node cordoned")
	return nil
}

// retried tries until it succeeds, another try would fail as well, or ctx ends.
func retried(ctx context.Context, try func() error) error {
	err := try()
	for err != nil && !isFinal(err) && drain.Sleep(ctx, cordonRetry) == nil {
		err = try()
	}
	return err
}

// isFinal reports whether another try to cordon the node would fail as well.
func isFinal(err error) bool {
	_, refused := errors.AsType[*drain.Refused](err)
	return refused || errors.Is(err, drain.ErrNodeReplaced)
}

// recordon cordons a node that the drain has found open. A denial is final, as that of the first cordon.
func (d *nodeDrain) recordon(ctx context.Context) (time.Time, error) {
	at, err := d.tryCordon(ctx)
	if _, denied := errors.AsType[*drain.Refused](err); denied {
		d.denied = err
	}
	return at, err
}

// tryCordon closes the node once, and returns when it was closed.
func (d *nodeDrain) tryCordon(ctx context.Context) (time.Time, error) {
	j := d.job
	closed, err := d.cluster.Cordon(ctx, d.node, Closing{
		Hook: j.Hook, Trigger: j.Trigger, Began: j.Began, Earlier: j.closedBefore(d.node), Save: j.saveClosed,
	})
	return closed.CordonedAt, err
}

// watch lists the node's pods, and watches them until the second context ends. The first bounds the list.
func (d *nodeDrain) watch(ctx, watching context.Context) error {
	watching, cancel := context.WithCancelCause(watching)
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	pods, err := d.cluster.WatchPods(watching, d.node, d.drainer.Effort)
	if err != nil {
		cancel(err)
		return err
	}
	stop()
	d.pods = d.job.reportGone(pods)
	return nil
}

// isReplaced reports whether the drain ended because the object is not our node any more.
func (d *nodeDrain) isReplaced() bool { return errors.Is(d.state.Err(), drain.ErrNodeReplaced) }

// evict evicts the node's pods phase by phase. If a Spot interruption shortens the deadline meanwhile, it continues under the new one.
// It returns the cause that ended the drain's time, if it has ended.
func (d *nodeDrain) evict(ctx context.Context) (cause error) {
	c := &d.job.clock
	deadline := c.deadline()
	for {
		limits, bounded, stop := c.startEvicting(ctx, d.job.Began)
		if limits.Deadline.Before(deadline) {
			d.log.Warn("Spot interruption: deadline shortened", "deadline", limits.Deadline, "was", deadline)
			deadline = limits.Deadline
		}
		limits.Force = d.job.Policy.Force
		drainer := d.drainer
		drainer.Log, drainer.Limits = d.log, limits
		d.report, d.state = drainer.Resume(bounded, d.pods, d.node, d.state)
		if d.denied != nil {
			d.drainer.Recordon = nil
		}
		if d.taintDenied {
			d.drainer.Taint = nil
		}
		cause = context.Cause(bounded)
		if stop(); !errors.Is(cause, errDeadlineShortened) {
			return cause
		}
	}
}
