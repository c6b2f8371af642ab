package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"quiesce/internal/drain"
)

const (
	// namesPerList is how many nodes one list asks for by name: 5 KB of URL, which proxies pass that stop at 8.
	namesPerList = 100
	// taintParallel is how many nodes are tainted at once. It is reached by doubling, beginning with one: where as many drains do
	// the same, most nodes are done by others before the second turn.
	taintParallel = 16
	// taintTimeout bounds all of it. A hundred nodes take a second; of an API server that does not answer, evictions are worth
	// more than taints.
	taintTimeout = 30 * time.Second
	// fromWatchCache has a list answered from what the server has in memory, however old. That is cheap for it, and safe here: what
	// has changed since refuses the patch that was made of it.
	fromWatchCache = "0"
)

// terminatingTaint keeps evicted pods off a node that is to go too. A taint, not a cordon: Zalando's and CloudNativePG's operators
// answer a cordon with a switchover.
var terminatingTaint = corev1.Taint{Key: "quiesce/terminating", Effect: corev1.TaintEffectNoSchedule}

// TaintTerminating implements termination.Surroundings. When a hundred nodes go at once, each of a hundred drains is to see to it that the
// other 99 take no pods: they are looked at all at once, taken in random order, a few and then more, and looked at again
// in between, so that what others have done is not done again. A node that is cordoned already repels by that.
func (c *Client) TaintTerminating(ctx context.Context, others []drain.Node) error {
	ctx, cancel := context.WithTimeout(ctx, taintTimeout)
	defer cancel()
	open, err := c.schedulableNodes(ctx, others)
	if err != nil {
		return fmt.Errorf("look for %d terminating nodes: %w", len(others), withoutURL(err))
	}
	rand.Shuffle(len(open), func(a, b int) { open[a], open[b] = open[b], open[a] })
	var faults []error
	for n := 1; len(open) > 0 && ctx.Err() == nil; n = min(2*n, taintParallel) {
		turn := min(n, len(open))
		faults = append(faults, c.taintNodes(ctx, open[:turn]))
		open = c.stillSchedulable(ctx, open[turn:])
	}
	if len(open) > 0 {
		faults = append(faults, fmt.Errorf("taint %d nodes more: %w", len(open), context.Cause(ctx)))
	}
	return errors.Join(faults...)
}

// withoutURL is the cause of an error whose text has the names of all nodes.
func withoutURL(err error) error {
	if failed, is := errors.AsType[*url.Error](err); is {
		return failed.Err
	}
	return err
}

// taintNodes taints nodes, all at once. One that is gone takes no pods either.
func (c *Client) taintNodes(ctx context.Context, nodes []*corev1.Node) error {
	faults := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, node := range nodes {
		group.Go(func() {
			if err := c.changeNodeFrom(ctx, node, taintPatch); err != nil && !apierrors.IsNotFound(err) {
				faults[i] = fmt.Errorf("taint node %s: %w", node.Name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(faults...)
}

// taintPatch is the patch that taints a node; nil: it takes no pods as it is.
func taintPatch(node *corev1.Node) map[string]any {
	if !isSchedulable(node) {
		return nil
	}
	return map[string]any{"spec": map[string]any{"taints": append(slices.Clone(node.Spec.Taints), terminatingTaint)}}
}

func isSchedulable(node *corev1.Node) bool {
	return !node.Spec.Unschedulable && !hasTerminatingTaint(node)
}

// schedulableNodes are those nodes of these instances that take pods. A node is looked for by the label that has its name, as its instance
// does; those that are not found by it are searched for, all of them together.
func (c *Client) schedulableNodes(ctx context.Context, others []drain.Node) (open []*corev1.Node, err error) {
	missing := map[string]bool{}
	for _, other := range others {
		missing[other.InstanceID] = true
	}
	look := func(n *corev1.Node) (all bool) {
		id := path.Base(n.Spec.ProviderID)
		if missing[id] && isSchedulable(n) {
			open = append(open, withoutStatus(n))
		}
		delete(missing, id)
		return len(missing) == 0
	}
	if err := c.eachNodeNamed(ctx, labelNames(others), look); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		err = c.eachNode(ctx, metav1.ListOptions{}, look)
	}
	return open, err
}

// stillSchedulable looks at nodes again, as far as they are found by their label. It only saves requests: those that it does not find,
// or where it fails, are taken to be what they were.
func (c *Client) stillSchedulable(ctx context.Context, nodes []*corev1.Node) (open []*corev1.Node) {
	seen := map[string]*corev1.Node{}
	_ = c.eachNodeNamed(ctx, hostnamesOf(nodes), func(n *corev1.Node) bool {
		seen[n.Name] = withoutStatus(n)
		return false
	})
	for _, n := range nodes {
		if n = cmp.Or(seen[n.Name], n); isSchedulable(n) {
			open = append(open, n)
		}
	}
	return open
}

// eachNodeNamed looks at the nodes whose label has one of these names.
func (c *Client) eachNodeNamed(ctx context.Context, names []string, look func(*corev1.Node) (found bool)) error {
	for some := range slices.Chunk(names, namesPerList) {
		selector := corev1.LabelHostname + " in (" + strings.Join(some, ",") + ")"
		if err := c.eachNode(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: fromWatchCache}, look); err != nil {
			return err
		}
	}
	return nil
}

// labelNames are the names of those that have one which a label can have.
func labelNames(nodes []drain.Node) (names []string) {
	for _, n := range nodes {
		if n.Name != "" && len(validation.IsValidLabelValue(n.Name)) == 0 {
			names = append(names, n.Name)
		}
	}
	return names
}

// hostnamesOf are the names that the nodes have as a label.
func hostnamesOf(nodes []*corev1.Node) (names []string) {
	for _, n := range nodes {
		if name := n.Labels[corev1.LabelHostname]; name != "" {
			names = append(names, name)
		}
	}
	return names
}

// withoutStatus is what of a node a taint is decided by. Status, which names all its images, is most of it.
func withoutStatus(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion, Labels: n.Labels}, Spec: n.Spec,
	}
}

func hasTerminatingTaint(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, isTerminatingTaint)
}

func isTerminatingTaint(t corev1.Taint) bool { return t.Key == terminatingTaint.Key }
