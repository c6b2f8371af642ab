package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	excludeLabel   = corev1.LabelNodeExcludeBalancers
	terminationKey = "quiesce/termination"
	taintKey       = "quiesce/terminating"
)

// manyNodes is the size of a cluster in which a node's name does not help to find it.
const manyNodes = 3000

// manyPages is how many pages a list of all these nodes has, with those of the tests.
const manyPages = manyNodes/500 + 1

// hiddenNodes are nodes that cannot be found by the name that EC2 gives the instance.
var hiddenNodes = []struct {
	node, name string // the node's own name, and its instance's
	refused    bool   // EC2 refuses the call
}{
	{node: "zz-unrelated", name: "ip-10-9-9-9.ec2.internal"},
	{node: "zz-refused", name: "zz-refused", refused: true},
	{node: "zz-of-another", name: manyNodeName(0)},
}

// A name is a guess: with custom node names it finds no node or another instance's node. A list of all nodes in one response can
// overload the API server of a large cluster, just when hundreds of instances terminate.
func TestFindNode_ThousandsOfNodes_FoundPageByPage(t *testing.T) {
	s := newFixtureOn(t, ownEnv(t), 0) // thousands of nodes would slow other tests down
	s.createManyNodes()
	for i, h := range hiddenNodes {
		s.Run(h.node, func(t *testing.T) {
			s := &fixture{T: t, Env: s.Env, ctx: s.ctx, group: s.group, function: s.function}
			target := s.instanceWithoutNode(s.group, h.name)
			s.joinNode(target, lab.Node{Name: h.node})
			target.Node = h.node
			s.runPodOn(target, fmt.Sprint("pod-", i), stopsAfter("100ms"))
			if h.refused {
				refusal := awstest.Fault{Code: http.StatusForbidden, ErrorCode: "UnauthorizedOperation", Message: "You are not authorized"}
				t.Cleanup(s.AWS.Fail("ec2", "DescribeInstances", refusal))
			}
			before := len(s.requests(s.function))
			r := s.drain(target)
			require.Empty(t, r.ErrorType, r.ErrorMessage)
			require.Equal(t, h.node, r.Node)
			require.Empty(t, s.podsOn(target))
			s.requireCompletedOnce(target)
			pagesOnly(t, s.requests(s.function)[before:])
		})
	}
	s.requireOnlyCordoned("zz-unrelated", "zz-refused", "zz-of-another")
	require.LessOrEqual(t, s.function.MaxRSS(), int64(peakMemory), "it lists them page by page")
}

// createManyNodes adds the other nodes, in two zones. They have no simulated kubelets: no pod ever runs there.
func (s *fixture) createManyNodes() {
	s.Helper()
	s.each(manyNodes, func(i int) error {
		_, err := s.Lab.Client().CoreV1().Nodes().Create(s.ctx, manyNode(i), metav1.CreateOptions{})
		return err
	})
}

// each calls do n times, several at once.
func (s *fixture) each(n int, do func(i int) error) {
	s.Helper()
	queue, failed := make(chan int), make([]error, 16)
	var group sync.WaitGroup
	for worker := range failed {
		group.Go(func() {
			for i := range queue {
				failed[worker] = errors.Join(failed[worker], do(i))
			}
		})
	}
	for i := range n {
		queue <- i
	}
	close(queue)
	group.Wait()
	require.NoError(s, errors.Join(failed...))
}

func manyNodeName(i int) string { return fmt.Sprintf("ip-10-1-%d-%d.ec2.internal", i/250, i%250) }

func manyNode(i int) *corev1.Node {
	zone := awstest.Region + string("ab"[i%2])
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: manyNodeName(i), Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Spec:       corev1.NodeSpec{ProviderID: fmt.Sprintf("aws:///%s/i-%017x", zone, 1<<40+i)},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

// pagesOnly requires that the nodes were listed once, page by page. Where the API server does not stream lists, as Kubernetes 1.33 by
// default, the watch of the one node begins with a list of that node.
func pagesOnly(t *testing.T, requests []lab.Request) {
	t.Helper()
	lists := 0
	for _, r := range requests {
		if r.Resource != "nodes" || r.Verb != "list" {
			continue
		}
		uri, err := url.Parse(r.URI)
		require.NoError(t, err)
		if strings.HasPrefix(uri.Query().Get("fieldSelector"), "metadata.name=") {
			continue
		}
		require.Equal(t, "500", uri.Query().Get("limit"), r.URI)
		lists++
	}
	require.Equal(t, manyPages, lists)
}

func (s *fixture) requireOnlyCordoned(names ...string) {
	s.Helper()
	nodes, err := s.Lab.Client().CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	require.NoError(s, err)
	for _, node := range nodes.Items {
		if !slices.Contains(names, node.Name) {
			require.False(s, node.Spec.Unschedulable, node.Name)
			require.NotContains(s, node.Annotations, terminationKey)
		}
	}
}

// An instance that fails to boot never becomes a node. Waiting for it would delay its replacement.
func TestFindNode_NeverJoined_CompletedAfterTimeout(t *testing.T) {
	s := newFixture(t, 0, "drain: {nodeJoinTimeout: 2s}")
	target := s.instanceWithoutNode(s.group, "nowhere.ec2.internal")
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, nodeNotFound, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Contains(t, r.Reason, "no node")
	require.GreaterOrEqual(t, r.FinishedAt.Sub(r.StartedAt), 2*time.Second)
	s.requireCompletedOnce(target)
}

// A kubelet that registers while its instance terminates soon has pods. If the instance were completed without waiting for the
// node, these pods would be killed without SIGTERM.
func TestFindNode_JoinsLate_Drained(t *testing.T) {
	s := newFixture(t, 0, "drain: {nodeJoinTimeout: 2m}")
	target := s.instanceWithoutNode(s.group, s.group+".ec2.internal")
	s.createPod("pod", pinned(target))
	answer := s.begin(target)
	s.until("the node was looked for", func() (bool, error) {
		missed := func(r lab.Request) bool { return r.Resource == "nodes" && r.Code == http.StatusNotFound }
		return slices.ContainsFunc(s.requests(s.function), missed), nil
	})
	s.joinNode(target, lab.Node{Name: target.Node})
	r := answer()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, target.Node, r.Node)
	require.Equal(t, drain.Evicted, r.pod(t, "pod").Outcome)
	s.requireCompletedOnce(target)
}

// Nothing stops the pods of an unreachable kubelet: waiting would last until the deadline and save nothing. The report must name
// the pods, since a person must check what they held.
func TestDrain_NodeUnreachable_NotWaitedFor(t *testing.T) {
	s := newFixture(t, 2)
	target := s.instances[0]
	pods := []string{"first", "second", "third"}
	for _, name := range pods {
		s.runPodOn(target, name)
	}
	require.NoError(t, s.Lab.StopKubelet(s.ctx, target.Node))
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPartial, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
	for _, name := range pods {
		line := r.pod(t, name)
		require.Equal(t, drain.Remained, line.Outcome)
		require.Contains(t, line.Reason, "kubelet unreachable")
		require.False(t, line.EvictedAt.IsZero())
		require.Len(t, s.evictions(name), 1)
	}
	require.Len(t, s.podsOn(target), len(pods))
	s.requireCompletedOnce(target)
}

// The pods of a lost kubelet cannot be stopped. They must not keep a dead instance, whose replacement waits.
func TestDrain_NodeUnreachableAndPDB_NotWaitedFor(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.deploy("web", 2)
	s.pdb("web", "web", 0)
	s.runPodOn(target, "held", annotated("karpenter.sh/do-not-disrupt", "true"))
	require.NoError(t, s.Lab.StopKubelet(s.ctx, target.Node))
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPartial, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Less(t, r.FinishedAt.Sub(r.StartedAt), 2*time.Minute)
	require.Len(t, r.Pods, 3)
	for _, line := range r.Pods {
		require.Equal(t, drain.Remained, line.Outcome)
		require.Contains(t, line.Reason, "kubelet unreachable")
	}
	s.requireCompletedOnce(target)
}

// A node that stays cordoned after its instance returned to service wastes capacity. A node that loses an admin's cordon runs
// pods on an instance under repair.
func TestUncordon_NodeBackInService_OnlyOurChangesUndone(t *testing.T) {
	s := newFixture(t, 3)
	s.AWS.AddGroup(s.group, awstest.Hook{Name: env.Hook}, awstest.Hook{Name: "another"}) // no instance ends: a sweep would delete its Lease
	clean, held := s.instances[1], s.instances[2]
	s.patchNode(clean, `{"metadata":{"labels":{"team":"db"},"annotations":{"team/note":"ours"}}}`)
	s.patchNode(held, `{"metadata":{"labels":{"`+excludeLabel+`":"admin"}},"spec":{"unschedulable":true}}`)
	stale := make([][]byte, len(s.instances))
	for n, i := range s.instances {
		stale[n] = s.terminate(i).Body
	}
	for n := range s.instances {
		require.Equal(t, termination.StatusDrained, s.invoke(stale[n]).Status)
	}
	s.requireCordoned(clean)
	s.requireCordoned(held)
	require.True(t, hasTaint(s.node(clean), taintKey), "the first drain was to keep its pods off this node")
	require.Equal(t, "quiesce", s.node(clean).Labels[excludeLabel])
	require.Equal(t, "admin", s.node(held).Labels[excludeLabel])

	s.AWS.SetState(clean.ID, "InService")
	s.AWS.SetState(held.ID, "InService")
	s.backdateClosing(clean, time.Hour) // a description can lag: the action may be going on
	s.backdateClosing(held, time.Hour)
	result := s.send(sample(t, "sqs-batch", func(batch object) {
		records(batch)[0]["body"], records(batch)[1]["body"] = string(stale[1]), string(stale[2])
	}))
	requireNoFailures(t, result.Payload)
	node := s.node(clean)
	require.False(t, node.Spec.Unschedulable)
	require.False(t, hasTaint(node, taintKey))
	require.NotContains(t, node.Labels, excludeLabel)
	require.NotContains(t, node.Annotations, terminationKey)
	require.Equal(t, "db", node.Labels["team"])
	require.Equal(t, "ours", node.Annotations["team/note"])
	node = s.node(held)
	require.True(t, node.Spec.Unschedulable)
	require.Equal(t, "admin", node.Labels[excludeLabel])
	require.NotContains(t, node.Annotations, terminationKey)
}

// requireCordoned requires that the node is cordoned, and says for which termination.
func (s *fixture) requireCordoned(i env.Instance) {
	s.Helper()
	node := s.node(i)
	require.True(s, node.Spec.Unschedulable)
	var note struct {
		Hook            string
		Began, Cordoned time.Time
	}
	require.NoError(s, json.Unmarshal([]byte(node.Annotations[terminationKey]), &note))
	require.Equal(s, env.Hook, note.Hook)
	require.WithinRange(s, note.Cordoned, note.Began, time.Now())
}

// When a group loses several instances at once, a pod evicted onto a terminating peer is interrupted twice, and a database fails
// over twice.
func TestEvict_TerminatingPeer_ReceivesNoPods(t *testing.T) {
	s := newFixture(t, 3)
	s.deploy("web", 12)
	first, next := s.instances[0], s.instances[1]
	before := uids(s.podsOn(next))
	require.NotEmpty(t, s.podsOn(first))
	s.terminate(next)
	require.Equal(t, termination.StatusDrained, s.drain(first).Status)

	requests := s.requests(s.function)
	tainted := slices.IndexFunc(requests, func(r lab.Request) bool {
		return r.Verb == "patch" && r.Name == next.Node && r.Code == http.StatusOK
	})
	evicted := slices.IndexFunc(requests, func(r lab.Request) bool { return r.Subresource == "eviction" })
	require.GreaterOrEqual(t, tainted, 0)
	require.True(t, requests[tainted].Done.Before(requests[evicted].Time))
	require.True(t, hasTaint(s.node(next), taintKey))
	require.False(t, s.node(next).Spec.Unschedulable)
	s.until("web is ready again", func() (bool, error) {
		d, err := s.Lab.Client().AppsV1().Deployments(s.group).Get(s.ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.ReadyReplicas == 12, err
	})
	require.Equal(t, before, uids(s.podsOn(next)))
}

func uids(pods []corev1.Pod) (all []types.UID) {
	for _, p := range pods {
		all = append(all, p.UID)
	}
	slices.Sort(all)
	return all
}

// instanceWithoutNode adds an instance to a group, without a node; name is its private DNS name.
func (s *fixture) instanceWithoutNode(group, name string) env.Instance {
	i := env.Instance{ID: fmt.Sprintf("i-%017x", 1<<32+int(fixtures.Add(1))), Node: name, Zone: awstest.Region + "a"}
	s.AWS.AddInstance(group, awstest.Instance{ID: i.ID, Zone: i.Zone, PrivateDNS: name})
	return i
}

// joinNode adds the instance's node to the cluster.
func (s *fixture) joinNode(i env.Instance, n lab.Node) {
	s.Helper()
	n.InstanceID, n.Zone = i.ID, i.Zone
	require.NoError(s, s.Lab.AddNodes(s.ctx, n))
}

func (s *fixture) node(i env.Instance) *corev1.Node {
	s.Helper()
	node, err := s.Lab.Client().CoreV1().Nodes().Get(s.ctx, i.Node, metav1.GetOptions{})
	require.NoError(s, err)
	return node
}

// patchNode patches the instance's node as an admin.
func (s *fixture) patchNode(i env.Instance, patch string) {
	s.Helper()
	_, err := s.Lab.Client().CoreV1().Nodes().Patch(s.ctx, i.Node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(s, err)
}

func hasTaint(node *corev1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule })
}
