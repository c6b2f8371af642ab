package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
)

// taintEnv is nodes of a scene that nobody plays the kubelet of, and a client that counts.
type taintEnv struct {
	*labEnv
	nodes      []drain.Node
	client     *Client
	mu         sync.Mutex
	requests   map[string]int // by method
	onResponse func(*http.Request)
}

func newTaintEnv(t *testing.T, n int) *taintEnv {
	t.Helper()
	w := &taintEnv{labEnv: newLabEnv(t), requests: map[string]int{}, onResponse: func(*http.Request) {}}
	config := w.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{"quiesce"}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return countingTransport{w, next} })
	var err error
	w.client, err = New(config)
	require.NoError(t, err)
	for i := range n {
		w.nodes = append(w.nodes, w.addNode(i, true))
	}
	return w
}

// addNode adds a node, with its name as a label or without.
func (w *taintEnv) addNode(i int, labelled bool) drain.Node {
	w.Helper()
	id := fmt.Sprintf("i-%s-%d", w.namespace, i)
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "wave-" + id, Labels: map[string]string{corev1.LabelTopologyZone: "us-east-1a"}},
		Spec: corev1.NodeSpec{
			ProviderID: "aws:///us-east-1a/" + id,
			Taints:     []corev1.Taint{{Key: "team", Value: "db", Effect: corev1.TaintEffectNoExecute}},
		},
		// Ready, so that no controller has anything to write here, which would be conflicts that are counted.
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	if labelled {
		node.Labels[corev1.LabelHostname] = node.Name
	}
	_, err := w.Client().CoreV1().Nodes().Create(w.Context(), node, metav1.CreateOptions{})
	require.NoError(w, err)
	w.Cleanup(func() { _ = w.RemoveNode(context.Background(), node.Name) })
	return drain.Node{Name: node.Name, InstanceID: id}
}

// countingTransport counts the requests that pass.
type countingTransport struct {
	env  *taintEnv
	next http.RoundTripper
}

func (c countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	c.env.mu.Lock()
	c.env.requests[r.Method]++
	c.env.mu.Unlock()
	c.env.onResponse(r)
	return response, err
}

func (w *taintEnv) get(n drain.Node) *corev1.Node {
	w.Helper()
	node, err := w.Client().CoreV1().Nodes().Get(w.Context(), n.Name, metav1.GetOptions{})
	require.NoError(w, err)
	return node
}

func (w *taintEnv) cordon(n drain.Node) error {
	_, err := w.Client().CoreV1().Nodes().Patch(context.Background(), n.Name, types.MergePatchType,
		[]byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	return err
}

// awaitCached waits until the server remembers that all of these nodes are there or, if closed is asked for, that they are closed.
func (w *taintEnv) awaitCached(nodes []drain.Node, closed bool) {
	w.Helper()
	w.eventually(func() bool {
		all, err := w.Client().CoreV1().Nodes().List(context.Background(), metav1.ListOptions{ResourceVersion: fromWatchCache})
		return err == nil && !slices.ContainsFunc(nodes, func(n drain.Node) bool {
			return !slices.ContainsFunc(all.Items, func(seen corev1.Node) bool {
				return seen.Name == n.Name && (seen.Spec.Unschedulable || !closed)
			})
		})
	})
}

// requireTainted: with our taint, once, and with those that it had.
func (w *taintEnv) requireTainted(n drain.Node) {
	w.Helper()
	node := w.get(n)
	require.False(w, node.Spec.Unschedulable, n.Name)
	require.Len(w, node.Spec.Taints, 2, n.Name)
	require.Equal(w, "team", node.Spec.Taints[0].Key)
	require.Equal(w, terminatingTaint, node.Spec.Taints[1])
}

func TestTheNodesOfAWaveAreLookedAtTogether(t *testing.T) {
	w := newTaintEnv(t, 20)
	require.NoError(t, w.cordon(w.nodes[0]))
	_, err := w.client.Cordon(t.Context(), w.nodes[1], "quiesce", time.Now())
	require.NoError(t, err)
	w.awaitCached(w.nodes, false)
	w.awaitCached(w.nodes[:2], true)
	bystander := w.addNode(20, true)
	clear(w.requests)

	require.NoError(t, w.client.TaintTerminating(t.Context(), w.nodes))
	for _, n := range w.nodes[:2] {
		require.False(t, hasTerminatingTaint(w.get(n)), "it repels by its cordon")
	}
	for _, n := range w.nodes[2:] {
		w.requireTainted(n)
	}
	require.Len(t, w.get(bystander).Spec.Taints, 1)
	require.Equal(t, 18, w.requests[http.MethodPatch])
	require.Equal(t, 5, w.requests[http.MethodGet], "once, and again after 1, 2, 4 and 8 of them")

	clear(w.requests)
	w.eventually(func() bool { // the server's memory lags by a moment
		before := w.requests[http.MethodPatch]
		require.NoError(t, w.client.TaintTerminating(t.Context(), w.nodes))
		return w.requests[http.MethodPatch] == before
	})
	for _, n := range w.nodes[2:] {
		w.requireTainted(n)
	}
}

// Where nodes have names of their own making, or EC2 tells none, they are found by their instances: all of them by one search.
func TestNodesOfAWaveThatNoNameFindsAreSearchedForTogether(t *testing.T) {
	w := newTaintEnv(t, 2)
	unlabelled, unnamed, renamed := w.addNode(2, false), w.addNode(3, true), w.addNode(4, true)
	w.awaitCached([]drain.Node{unlabelled, unnamed, renamed}, false)
	clear(w.requests)
	others := []drain.Node{
		w.nodes[0], unlabelled,
		{InstanceID: unnamed.InstanceID},
		{Name: w.nodes[1].Name, InstanceID: renamed.InstanceID}, // the name is another's
		{Name: "a name that is no label's", InstanceID: "i-nowhere"},
	}
	require.NoError(t, w.client.TaintTerminating(t.Context(), others))
	for _, n := range []drain.Node{w.nodes[0], unlabelled, unnamed, renamed} {
		w.requireTainted(n)
	}
	require.Len(t, w.get(w.nodes[1]).Spec.Taints, 1, "another machine that has the name")
	require.Equal(t, 4, w.requests[http.MethodPatch])
	require.LessOrEqual(t, w.requests[http.MethodGet], 4)
}

// Most of a wave's work is done by others meanwhile: what a drain does not see of it, it does again, 99 times in a hundred.
func TestWhatOthersHaveDoneIsNotDoneAgain(t *testing.T) {
	w := newTaintEnv(t, 20)
	w.awaitCached(w.nodes, false)
	clear(w.requests)
	var once sync.Once
	w.onResponse = func(r *http.Request) {
		if r.Method == http.MethodPatch {
			once.Do(func() {
				for _, n := range w.nodes {
					require.NoError(t, w.cordon(n))
				}
				w.awaitCached(w.nodes, true)
			})
		}
	}
	require.NoError(t, w.client.TaintTerminating(t.Context(), w.nodes))
	require.Equal(t, map[string]int{http.MethodPatch: 1, http.MethodGet: 2}, w.requests)
}

// A hundred drains that begin in the same moment have 9,900 things to see to between them, and a hundred to do.
func TestDrainsOfAWaveShareItsWork(t *testing.T) {
	const drains = 40
	w := newTaintEnv(t, drains)
	w.awaitCached(w.nodes, false)
	clear(w.requests)
	faults := make([]error, drains)
	var group sync.WaitGroup
	for i := range drains {
		group.Go(func() {
			others := slices.Delete(slices.Clone(w.nodes), i, i+1)
			faults[i] = w.client.TaintTerminating(t.Context(), others)
		})
	}
	group.Wait()
	for i, err := range faults {
		require.NoError(t, err)
		w.requireTainted(w.nodes[i])
	}
	total := w.requests[http.MethodGet] + w.requests[http.MethodPatch]
	t.Logf("%d drains of a wave: %d requests (%v); one by one they would be %d", drains, total, w.requests, 3*drains*(drains-1))
	require.Less(t, total, drains*drains, "each looks a few times, not once for each other")
}

// Kubelets write to nodes, and so do others: what is not as it was seen is looked at before it is changed.
func TestANodeThatHasChangedSinceItWasSeenKeepsWhatOthersWrote(t *testing.T) {
	w := newTaintEnv(t, 2)
	seen := []*corev1.Node{w.get(w.nodes[0]), w.get(w.nodes[1])}
	_, err := w.Client().CoreV1().Nodes().Patch(t.Context(), w.nodes[0].Name, types.MergePatchType,
		[]byte(`{"spec":{"taints":[{"key":"team","effect":"NoSchedule"}]},"metadata":{"labels":{"team":"db"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, w.RemoveNode(t.Context(), w.nodes[1].Name))
	require.NoError(t, w.client.taintNodes(t.Context(), seen), "one that is gone takes no pods")
	w.requireTainted(w.nodes[0])
	require.Equal(t, corev1.TaintEffectNoSchedule, w.get(w.nodes[0]).Spec.Taints[0].Effect)
	require.Equal(t, "db", w.get(w.nodes[0]).Labels["team"])
}

func TestNodesThatCouldNotBeTaintedAreToldOf(t *testing.T) {
	w := newTaintEnv(t, 3)
	w.awaitCached(w.nodes, false)
	config := w.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:kube-scheduler"} // may see nodes, and not patch them
	client, err := New(config)
	require.NoError(t, err)
	err = client.TaintTerminating(t.Context(), w.nodes)
	for _, n := range w.nodes {
		require.ErrorContains(t, err, "taint node "+n.Name)
	}

	ctx, cancel := context.WithCancel(t.Context())
	w.onResponse = func(r *http.Request) {
		if r.Method == http.MethodPatch {
			cancel()
		}
	}
	require.ErrorContains(t, w.client.TaintTerminating(ctx, w.nodes), "taint 2 nodes more: context canceled")
	err = w.client.TaintTerminating(ctx, w.nodes)
	require.ErrorContains(t, err, "look for 3 terminating nodes: ")
	require.NotContains(t, err.Error(), w.nodes[0].Name, "a hundred names in one line of the log")
}
