package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"quiesce/internal/drain"
)

const (
	// namesPerList is how many nodes one list request names. That makes a URL of 5 KB; some proxies allow only 8 KB.
	namesPerList = 100
	// taintParallel bounds how many nodes are tainted at once. The number starts at one and doubles: if many drains do the
	// same, others have tainted most nodes before the second batch.
	taintParallel = 16
	// fewNodes is how many nodes are tainted without a wait. If there are more, their own drains may start in the same moment, and cordon
	// most of them during the wait.
	fewNodes = 4
	// turnPerNode is how long a drain waits at most for its turn, for each node that is not tainted. With a hundred drains that start
	// together, each turn comes 10 ms after another, about as long as a patch takes on a busy server. The first eviction waits for it.
	turnPerNode = 10 * time.Millisecond
	// longestTurn bounds that wait. More than a hundred nodes are not worth more of it: evictions are what the server is busy with then.
	longestTurn = time.Second
	// taintTimeout bounds TaintTerminating. A hundred nodes take a second. If the API server does not answer, evictions matter
	// more than taints.
	taintTimeout = 30 * time.Second
	// fromWatchCache is the resource version that lets the server answer a list from memory, however old. That is cheap for the
	// server. It is safe here: a patch that is based on an old version is refused.
	fromWatchCache = "0"
)

// terminatingTaint keeps evicted pods off a node that terminates. It is a taint and not a cordon, because Zalando's and
// CloudNativePG's operators answer a cordon with a switchover.
var terminatingTaint = corev1.Taint{Key: "quiesce/terminating", Effect: corev1.TaintEffectNoSchedule}

// TaintTerminating taints the nodes of these instances, except those that take no pods already. If a hundred nodes terminate
// at once, each of a hundred drains must taint the other 99. So each drain lists them together, and waits for a random turn if they are
// many. Nodes whose own drains have begun come last: mostly they are cordoned by then. The others are tainted in random order and in growing
// batches, and what remains is listed before each batch. So no drain repeats what others have done.
func (c *Client) TaintTerminating(ctx context.Context, others []drain.Node) error {
	ctx, cancel := context.WithTimeout(ctx, taintTimeout)
	defer cancel()
	pending, err := c.schedulableNodes(ctx, others)
	if err != nil {
		return fmt.Errorf("find %d terminating nodes: %w", len(others), withoutURL(err))
	}
	var drained []*corev1.Node
	if len(pending) > fewNodes {
		awaitTurn(ctx, len(pending))
		pending, drained = c.splitByDrain(ctx, c.stillSchedulable(ctx, pending))
	}
	err = c.taintInBatches(ctx, pending)
	if len(drained) > 0 { // an owner may deny the cordon, or the drain was killed before it
		awaitTurn(ctx, len(drained))
		err = errors.Join(err, c.taintInBatches(ctx, c.stillSchedulable(ctx, drained)))
	}
	return bounded(err)
}

// taintInBatches taints nodes in random order and in growing batches, and lists before each what remains. If others taint the same nodes at
// this moment, it waits for another turn: with thirty drains, most requests of larger batches would come too late.
func (c *Client) taintInBatches(ctx context.Context, pending []*corev1.Node) error {
	rand.Shuffle(len(pending), func(a, b int) { pending[a], pending[b] = pending[b], pending[a] })
	var failures []error
	changed := map[string]bool{} // nodes that others changed when they were to be tainted, by name
	for n := 1; len(pending) > 0 && ctx.Err() == nil; {
		batch := min(n, len(pending))
		again, err := c.taintNodes(ctx, pending[:batch], changed)
		failures = append(failures, err)
		pending = append(pending[batch:], again...)
		if n = min(2*n, taintParallel); len(again) > 0 {
			n = 1
			awaitTurn(ctx, len(pending))
		}
		pending = c.stillSchedulable(ctx, pending)
	}
	if len(pending) > 0 {
		failures = append(failures, fmt.Errorf("%d nodes not tainted: %w", len(pending), context.Cause(ctx)))
	}
	return errors.Join(failures...)
}

// awaitTurn waits for a random time, which grows with the number of nodes.
func awaitTurn(ctx context.Context, nodes int) {
	limit := min(time.Duration(nodes)*turnPerNode, longestTurn)
	_ = drain.Sleep(ctx, rand.N(limit))
}

// withoutURL returns the cause of a request's error. The URL in its text has the names of all nodes.
func withoutURL(err error) error {
	if failed, is := errors.AsType[*url.Error](err); is {
		return failed.Err
	}
	return err
}

// taintNodes taints nodes, all in parallel. A node that is gone is no error: it takes no pods either. One that was changed since
// it was listed comes again: mostly another drain has tainted it, and the next list of all of them shows that with one request.
func (c *Client) taintNodes(ctx context.Context, nodes []*corev1.Node, changed map[string]bool) (again []*corev1.Node, err error) {
	failures := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, node := range nodes {
		taint := c.taintOnce
		if changed[node.Name] {
			taint = c.taintNode
		}
		group.Go(func() { failures[i] = taint(ctx, node) })
	}
	group.Wait()
	for i, node := range nodes {
		switch failed := failures[i]; {
		case failed == nil, apierrors.IsNotFound(failed):
		case apierrors.IsConflict(failed) && !changed[node.Name]:
			changed[node.Name] = true
			again = append(again, node)
		default:
			err = errors.Join(err, fmt.Errorf("taint node %s: %w", node.Name, bounded(refusedIfDenied(failed))))
		}
	}
	return again, err
}

// taintOnce taints the node, if it is still of the version that was listed.
func (c *Client) taintOnce(ctx context.Context, node *corev1.Node) error {
	return c.patchNode(ctx, node, withTerminatingTaint(node))
}

// taintNode taints the node, unless it takes no pods anyway. After a conflict its name may be another node's.
func (c *Client) taintNode(ctx context.Context, node *corev1.Node) error {
	return c.changeNodeFrom(ctx, node, func(current *corev1.Node) (map[string]any, error) {
		if current.UID != node.UID || !isSchedulable(current) {
			return nil, nil
		}
		return withTerminatingTaint(current), nil
	})
}

func withTerminatingTaint(node *corev1.Node) map[string]any {
	return map[string]any{"spec": map[string]any{"taints": append(slices.Clone(node.Spec.Taints), terminatingTaint)}}
}

// isSchedulable reports whether the node has neither a cordon nor the taint.
func isSchedulable(node *corev1.Node) bool {
	return !node.Spec.Unschedulable && !hasTerminatingTaint(node)
}

// schedulableNodes returns the nodes of these instances that still take pods. It looks for a node by the label that has its
// name, and checks the instance. One search finds all nodes that have no such label.
func (c *Client) schedulableNodes(ctx context.Context, others []drain.Node) (found []*corev1.Node, err error) {
	missing := map[string]bool{}
	for _, other := range others {
		if other.InstanceID != "" { // as is the instance of a node without a provider ID
			missing[other.InstanceID] = true
		}
	}
	visit := func(n *corev1.Node) (done bool) {
		id := claimedInstance(n)
		if missing[id] && isSchedulable(n) {
			found = append(found, withoutStatus(n))
		}
		delete(missing, id)
		return len(missing) == 0
	}
	if err := c.eachNodeNamed(ctx, labelNames(others), visit); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		err = c.eachNode(ctx, metav1.ListOptions{}, visit)
	}
	return found, err
}

// splitByDrain returns the nodes whose own drains have begun apart from the others: the holder of an instance's Lease closes its node next.
// This too only saves requests. If the nodes are few, a look at the Leases costs as much. If the Leases cannot be listed soon, no drain counts.
func (c *Client) splitByDrain(ctx context.Context, nodes []*corev1.Node) (undrained, begun []*corev1.Node) {
	if len(nodes) <= fewNodes {
		return nodes, nil
	}
	ctx, cancel := context.WithTimeout(ctx, longestTurn)
	defer cancel()
	drained := map[string]bool{}
	_ = c.eachLease(ctx, func(l *coordinationv1.Lease) {
		if !isFree(l) {
			drained[l.Name] = true
		}
	})
	for _, n := range nodes {
		if drained[claimedInstance(n)] {
			begun = append(begun, n)
		} else {
			undrained = append(undrained, n)
		}
	}
	return undrained, begun
}

// stillSchedulable lists nodes again by their label and returns those that still take pods. It only saves requests: a node
// that it does not find, or cannot list, counts as unchanged.
func (c *Client) stillSchedulable(ctx context.Context, nodes []*corev1.Node) (found []*corev1.Node) {
	latest := map[string]*corev1.Node{}
	_ = c.eachNodeNamed(ctx, hostnamesOf(nodes), func(n *corev1.Node) (done bool) {
		latest[n.Name] = withoutStatus(n)
		return false
	})
	for _, n := range nodes {
		if now := cmp.Or(latest[n.Name], n); now.UID == n.UID && isSchedulable(now) {
			found = append(found, now)
		}
	}
	return found
}

// eachNodeNamed calls visit for each node whose hostname label is one of these names. A true from visit ends only one list.
func (c *Client) eachNodeNamed(ctx context.Context, names []string, visit func(*corev1.Node) (done bool)) error {
	for chunk := range slices.Chunk(names, namesPerList) {
		selector := corev1.LabelHostname + " in (" + strings.Join(chunk, ",") + ")"
		if err := c.eachNode(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: fromWatchCache}, visit); err != nil {
			return err
		}
	}
	return nil
}

// labelNames returns the names that are valid values of a label.
func labelNames(nodes []drain.Node) (names []string) {
	for _, n := range nodes {
		if n.Name != "" && len(validation.IsValidLabelValue(n.Name)) == 0 {
			names = append(names, n.Name)
		}
	}
	return names
}

// hostnamesOf returns the values of the nodes' hostname labels.
func hostnamesOf(nodes []*corev1.Node) (names []string) {
	for _, n := range nodes {
		if name := n.Labels[corev1.LabelHostname]; name != "" {
			names = append(names, name)
		}
	}
	return names
}

// withoutStatus returns a copy with the fields that a taint needs. Status names all images of the node and is most of the
// object.
func withoutStatus(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels}, Spec: n.Spec,
	}
}

func hasTerminatingTaint(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, isTerminatingTaint)
}

func isTerminatingTaint(t corev1.Taint) bool { return t.Key == terminatingTaint.Key }
