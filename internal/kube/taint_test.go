package kube

import (
	"context"
	"errors"
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
	"quiesce/internal/termination"
)

// taintEnv is an environment with nodes that have no kubelet, and a client that counts its requests.
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
	e := &taintEnv{labEnv: newLabEnv(t), requests: map[string]int{}, onResponse: func(*http.Request) {}}
	config := e.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{"quiesce"}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return countingTransport{e, next} })
	var err error
	e.client, err = New(config)
	require.NoError(t, err)
	for i := range n {
		e.nodes = append(e.nodes, e.addNode(i, true))
	}
	return e
}

// addNode adds a node, with or without the label that has its name.
func (e *taintEnv) addNode(i int, labeled bool) drain.Node {
	e.Helper()
	id := fmt.Sprintf("i-%s-%d", e.namespace, i)
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "taint-" + id, Labels: map[string]string{corev1.LabelTopologyZone: "us-east-1a"}},
		Spec: corev1.NodeSpec{
			ProviderID: "aws:///us-east-1a/" + id,
			Taints:     []corev1.Taint{{Key: "team", Value: "db", Effect: corev1.TaintEffectNoExecute}},
		},
		// Ready, so that no controller writes to the node: a conflict would add to the counted requests.
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	if labeled {
		node.Labels[corev1.LabelHostname] = node.Name
	}
	_, err := e.Client().CoreV1().Nodes().Create(e.Context(), node, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() { _ = e.RemoveNode(context.Background(), node.Name) })
	return drain.Node{Name: node.Name, InstanceID: id}
}

// countingTransport counts requests by method.
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

func (e *taintEnv) get(n drain.Node) *corev1.Node {
	e.Helper()
	node, err := e.Client().CoreV1().Nodes().Get(e.Context(), n.Name, metav1.GetOptions{})
	require.NoError(e, err)
	return node
}

func (e *taintEnv) cordon(n drain.Node) error {
	_, err := e.Client().CoreV1().Nodes().Patch(context.Background(), n.Name, types.MergePatchType,
		[]byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	return err
}

// awaitCached waits until the server's watch cache has all these nodes, and their cordons if cordoned is true.
func (e *taintEnv) awaitCached(nodes []drain.Node, cordoned bool) {
	e.Helper()
	e.eventually(func() bool {
		all, err := e.Client().CoreV1().Nodes().List(context.Background(), metav1.ListOptions{ResourceVersion: fromWatchCache})
		return err == nil && !slices.ContainsFunc(nodes, func(n drain.Node) bool {
			return !slices.ContainsFunc(all.Items, func(seen corev1.Node) bool {
				return seen.Name == n.Name && (seen.Spec.Unschedulable || !cordoned)
			})
		})
	})
}

// requireTainted fails unless the node has its own taints and exactly one of ours.
func (e *taintEnv) requireTainted(n drain.Node) {
	e.Helper()
	node := e.get(n)
	require.False(e, node.Spec.Unschedulable, n.Name)
	require.Len(e, node.Spec.Taints, 2, n.Name)
	require.Equal(e, "team", node.Spec.Taints[0].Key)
	require.Equal(e, terminatingTaint, node.Spec.Taints[1])
}

func TestTaintTerminating_ManyNodes_FewLists(t *testing.T) {
	e := newTaintEnv(t, 20)
	require.NoError(t, e.cordon(e.nodes[0]))
	_, err := e.client.Cordon(t.Context(), e.nodes[1], termination.Closing{Hook: "quiesce", Began: time.Now()})
	require.NoError(t, err)
	e.awaitCached(e.nodes, false)
	e.awaitCached(e.nodes[:2], true)
	bystander := e.addNode(20, true)
	clear(e.requests)

	require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
	for _, n := range e.nodes[:2] {
		require.False(t, hasTerminatingTaint(e.get(n)), "the cordon is enough")
	}
	for _, n := range e.nodes[2:] {
		e.requireTainted(n)
	}
	require.Len(t, e.get(bystander).Spec.Taints, 1)
	require.Equal(t, 18, e.requests[http.MethodPatch])
	const nodes, leases = 6, 1
	require.Equal(t, nodes+leases, e.requests[http.MethodGet],
		"nodes once, again when its turn comes, and after 1, 2, 4 and 8 nodes; Leases when its turn comes")

	clear(e.requests)
	e.eventually(func() bool { // the watch cache lags
		before := e.requests[http.MethodPatch]
		require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
		return e.requests[http.MethodPatch] == before
	})
	for _, n := range e.nodes[2:] {
		e.requireTainted(n)
	}
}

// If a node's name is not the one that EC2 knows, or EC2 knows none, its provider ID identifies it. One search finds all
// such nodes.
func TestTaintTerminating_NamesDoNotMatch_OneSearch(t *testing.T) {
	e := newTaintEnv(t, 2)
	unlabeled, unnamed, renamed := e.addNode(2, false), e.addNode(3, true), e.addNode(4, true)
	e.awaitCached([]drain.Node{unlabeled, unnamed, renamed}, false)
	clear(e.requests)
	others := []drain.Node{
		e.nodes[0], unlabeled,
		{InstanceID: unnamed.InstanceID},
		{Name: e.nodes[1].Name, InstanceID: renamed.InstanceID}, // the name of another instance's node
		{Name: "a name that is no valid label", InstanceID: "i-nowhere"},
	}
	require.NoError(t, e.client.TaintTerminating(t.Context(), others))
	for _, n := range []drain.Node{e.nodes[0], unlabeled, unnamed, renamed} {
		e.requireTainted(n)
	}
	require.Len(t, e.get(e.nodes[1]).Spec.Taints, 1, "the node of another instance")
	require.Equal(t, 4, e.requests[http.MethodPatch])
	require.LessOrEqual(t, e.requests[http.MethodGet], 4)
}

// Other drains taint most nodes in the meantime. A drain that does not look again repeats 99 of 100 requests.
func TestTaintTerminating_OthersWereFaster_NoRepeat(t *testing.T) {
	e := newTaintEnv(t, 20)
	e.awaitCached(e.nodes, false)
	clear(e.requests)
	var once sync.Once
	e.onResponse = func(r *http.Request) {
		if r.Method == http.MethodPatch {
			once.Do(func() {
				for _, n := range e.nodes {
					require.NoError(t, e.cordon(n))
				}
				e.awaitCached(e.nodes, true)
			})
		}
	}
	require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
	require.Equal(t, map[string]int{http.MethodPatch: 1, http.MethodGet: 4}, e.requests, "nodes three times, and Leases once")
}

// A drain that holds the Lease of its instance is about to cordon the node, and ninety-nine others need not taint it. If it does not, because
// an owner denies the cordon or the drain died, the node is tainted in the end.
func TestTaintTerminating_OwnDrainsBegan_TaintedOnlyIfStillOpen(t *testing.T) {
	e := newTaintEnv(t, 20)
	e.awaitCached(e.nodes, false)
	ended, stuck, begun, others := e.nodes[0], e.nodes[1], e.nodes[2:12], e.nodes[12:]
	for n, node := range e.nodes[:12] {
		lease, err := e.client.AcquireLease(t.Context(), node.InstanceID, termination.Acquisition{})
		require.NoError(t, err)
		if n == 0 {
			require.NoError(t, lease.Release(termination.KeepNothing))
			continue
		}
		t.Cleanup(func() { require.NoError(t, lease.Release(termination.KeepNothing)) })
	}
	e.mu.Lock() // Leases are being renewed
	clear(e.requests)
	e.mu.Unlock()
	var once sync.Once
	e.onResponse = func(r *http.Request) {
		if r.Method == http.MethodPatch {
			once.Do(func() {
				for _, n := range begun {
					require.NoError(t, e.cordon(n))
				}
				e.awaitCached(begun, true)
			})
		}
	}
	require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
	for _, n := range begun {
		require.False(t, hasTerminatingTaint(e.get(n)), n.Name)
	}
	for _, n := range append(others, ended, stuck) {
		e.requireTainted(n)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Equal(t, 10, e.requests[http.MethodPatch])
}

// A hundred drains that start together cordon their nodes in the same moment. Then there is nothing left to taint.
func TestTaintTerminating_AllCordonedBeforeItsTurn_NoPatch(t *testing.T) {
	e := newTaintEnv(t, 20)
	e.awaitCached(e.nodes, false)
	clear(e.requests)
	var once sync.Once
	e.onResponse = func(*http.Request) {
		once.Do(func() {
			for _, n := range e.nodes {
				require.NoError(t, e.cordon(n))
			}
			e.awaitCached(e.nodes, true)
		})
	}
	require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
	require.Equal(t, map[string]int{http.MethodGet: 2}, e.requests)
}

// A hundred drains that start at once have 9,900 nodes to check between them, and only 100 taints to set.
func TestTaintTerminating_ParallelDrains_ShareRequests(t *testing.T) {
	const drains = 40
	e := newTaintEnv(t, drains)
	e.awaitCached(e.nodes, false)
	clear(e.requests)
	failures := make([]error, drains)
	var group sync.WaitGroup
	for i := range drains {
		group.Go(func() {
			others := slices.Delete(slices.Clone(e.nodes), i, i+1)
			failures[i] = e.client.TaintTerminating(t.Context(), others)
		})
	}
	group.Wait()
	for i, err := range failures {
		require.NoError(t, err)
		e.requireTainted(e.nodes[i])
	}
	total := e.requests[http.MethodGet] + e.requests[http.MethodPatch]
	t.Logf("%d parallel drains: %d requests (%v); one by one they would be %d", drains, total, e.requests, 3*drains*(drains-1))
	require.Less(t, total, drains*drains, "each drain sends a few lists, not one request per node")
}

// Kubelets and others write to nodes too. A node that has changed is read again before it is patched.
func TestTaintNodes_NodeChanged_KeepsOtherChanges(t *testing.T) {
	e := newTaintEnv(t, 2)
	seen := []*corev1.Node{e.get(e.nodes[0]), e.get(e.nodes[1])}
	_, err := e.Client().CoreV1().Nodes().Patch(t.Context(), e.nodes[0].Name, types.MergePatchType,
		[]byte(`{"spec":{"taints":[{"key":"team","effect":"NoSchedule"}]},"metadata":{"labels":{"team":"db"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, e.RemoveNode(t.Context(), e.nodes[1].Name))
	again, err := e.client.taintNodes(t.Context(), seen, map[string]bool{})
	require.NoError(t, err, "a node that is gone is no error")
	require.Equal(t, seen[:1], again, "the next list of all nodes shows whether it is tainted")
	again, err = e.client.taintNodes(t.Context(), again, map[string]bool{e.nodes[0].Name: true})
	require.NoError(t, err)
	require.Empty(t, again, "a list may lag, a second look at the node does not")
	e.requireTainted(e.nodes[0])
	require.Equal(t, corev1.TaintEffectNoSchedule, e.get(e.nodes[0]).Spec.Taints[0].Effect)
	require.Equal(t, "db", e.get(e.nodes[0]).Labels["team"])
}

func TestTaintTerminating_Denied_ErrorNamesNodes(t *testing.T) {
	e := newTaintEnv(t, 3)
	e.awaitCached(e.nodes, false)
	config := e.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:kube-scheduler"} // may list nodes, but not patch them
	client, err := New(config)
	require.NoError(t, err)
	err = client.TaintTerminating(t.Context(), e.nodes)
	for _, n := range e.nodes {
		require.ErrorContains(t, err, "taint node "+n.Name)
	}
	_, denied := errors.AsType[*drain.Refused](err)
	require.True(t, denied, "what is denied is denied again")

	ctx, cancel := context.WithCancel(t.Context())
	e.onResponse = func(r *http.Request) {
		if r.Method == http.MethodPatch {
			cancel()
		}
	}
	require.ErrorContains(t, e.client.TaintTerminating(ctx, e.nodes), "2 nodes not tainted: context canceled")
	err = e.client.TaintTerminating(ctx, e.nodes)
	require.ErrorContains(t, err, "find 3 terminating nodes: ")
	require.NotContains(t, err.Error(), e.nodes[0].Name, "a hundred names in one log line")
}
