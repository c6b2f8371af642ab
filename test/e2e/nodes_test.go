package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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
	excludeLabel = corev1.LabelNodeExcludeBalancers
	markKey      = "quiesce/termination"
	waveKey      = "quiesce/terminating"
)

// crowd is how many other nodes there are in a cluster where a name does not help.
const crowd = 3000

// hidden are the ways in which a node cannot be found by the name that EC2 gives its instance. Nodes are called so that a
// list has them last.
var hidden = []struct {
	node, name string // its own name, and its instance's
	zone       string // as its label has it; empty: the right one
	refused    bool   // EC2 does not answer
	lists      int    // pages until it is found: half of the crowd is in its zone
}{
	{node: "zz-unrelated", name: "ip-10-9-9-9.ec2.internal", lists: 4},
	{node: "zz-refused", name: "zz-refused", refused: true, lists: 4},
	{node: "zz-of-another", name: crowdName(0), lists: 4},
	{node: "zz-mislabelled", name: "ip-10-9-9-8.ec2.internal", zone: "elsewhere", lists: 4 + 7},
}

// A name is a guess: with custom node names it finds nothing or, worse, another machine's node. And a list of all nodes at
// once is what brings the API server of a large cluster down, at the moment when hundreds of instances go.
func TestANodeIsFoundByItsInstanceAmongThousandsPageByPage(t *testing.T) {
	s := setSceneOn(t, ownStage(t), 0) // thousands of nodes would slow the others' down
	s.gather()
	for i, h := range hidden {
		s.Run(h.node, func(t *testing.T) {
			s := &scene{T: t, Env: s.Env, ctx: s.ctx, group: s.group, function: s.function}
			victim := s.unjoined(s.group, h.name)
			s.join(victim, lab.Node{Name: h.node, Labels: zoneLabel(h.zone)})
			victim.Node = h.node
			s.podOn(victim, fmt.Sprint("pod-", i), stopsAfter("100ms"))
			if h.refused {
				refusal := awstest.Fault{Code: http.StatusForbidden, ErrorCode: "UnauthorizedOperation", Message: "You are not authorized"}
				t.Cleanup(s.AWS.Fail("ec2", "DescribeInstances", refusal))
			}
			before := len(s.requests(s.function))
			r := s.drain(victim)
			require.Empty(t, r.ErrorType, r.ErrorMessage)
			require.Equal(t, h.node, r.Node)
			require.Empty(t, s.podsOn(victim))
			s.completedOnce(victim)
			pagesOnly(t, s.requests(s.function)[before:], victim.Zone, h.lists)
		})
	}
	s.noneMarkedBut("zz-unrelated", "zz-refused", "zz-of-another", "zz-mislabelled")
	require.LessOrEqual(t, s.function.MaxRSS(), int64(peakMemory), "it lists them page by page")
}

func zoneLabel(zone string) map[string]string {
	if zone == "" {
		return nil
	}
	return map[string]string{corev1.LabelTopologyZone: zone}
}

// gather adds the crowd, spread over two zones. Nobody plays their kubelets: no pod ever comes there.
func (s *scene) gather() {
	s.Helper()
	s.each(crowd, func(i int) error {
		_, err := s.Lab.Client().CoreV1().Nodes().Create(s.ctx, crowdNode(i), metav1.CreateOptions{})
		return err
	})
}

// each does something n times, several at once.
func (s *scene) each(n int, do func(i int) error) {
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

func crowdName(i int) string { return fmt.Sprintf("ip-10-1-%d-%d.ec2.internal", i/250, i%250) }

func crowdNode(i int) *corev1.Node {
	zone := awstest.Region + string("ab"[i%2])
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: crowdName(i), Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Spec:       corev1.NodeSpec{ProviderID: fmt.Sprintf("aws:///%s/i-%017x", zone, 1<<40+i)},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

// pagesOnly: of all the lists of nodes, none is of more than a page, and those of the zone come first.
func pagesOnly(t *testing.T, requests []lab.Request, zone string, lists int) {
	t.Helper()
	var selectors []string
	for _, r := range requests {
		if r.Resource != "nodes" || r.Verb != "list" {
			continue
		}
		uri, err := url.Parse(r.URI)
		require.NoError(t, err)
		require.Equal(t, "500", uri.Query().Get("limit"), r.URI)
		selectors = append(selectors, uri.Query().Get("labelSelector"))
	}
	require.Len(t, selectors, lists)
	require.Equal(t, corev1.LabelTopologyZone+"="+zone, selectors[0])
	require.True(t, slices.IsSortedFunc(selectors, func(a, b string) int { return len(b) - len(a) }), "%q", selectors)
}

func (s *scene) noneMarkedBut(names ...string) {
	s.Helper()
	nodes, err := s.Lab.Client().CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	require.NoError(s, err)
	for _, node := range nodes.Items {
		if !slices.Contains(names, node.Name) {
			require.False(s, node.Spec.Unschedulable, node.Name)
			require.NotContains(s, node.Annotations, markKey)
		}
	}
}

// An instance that failed to boot never becomes a node. To wait for one would hold up the group's replacement of it.
func TestAnInstanceThatNeverJoinedIsLetGoAfterAWhile(t *testing.T) {
	s := setScene(t, 0, "drain: {nodeJoinTimeout: 2s}")
	victim := s.unjoined(s.group, "nowhere.ec2.internal")
	r := s.drain(victim)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Contains(t, r.Reason, "no node")
	require.GreaterOrEqual(t, r.FinishedAt.Sub(r.StartedAt), 2*time.Second)
	s.completedOnce(victim)
}

// A kubelet that registers while its instance is being taken away brings pods with it a moment later; an instance that is let
// go for want of a node kills them unsignalled.
func TestANodeThatJoinsLateIsDrained(t *testing.T) {
	s := setScene(t, 0, "drain: {nodeJoinTimeout: 2m}")
	victim := s.unjoined(s.group, s.group+".ec2.internal")
	s.bare("pod", pinned(victim))
	answer := s.begin(victim)
	s.until("the node was looked for", func() (bool, error) {
		missed := func(r lab.Request) bool { return r.Resource == "nodes" && r.Code == http.StatusNotFound }
		return slices.ContainsFunc(s.requests(s.function), missed), nil
	})
	s.join(victim, lab.Node{Name: victim.Node})
	r := answer()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, victim.Node, r.Node)
	require.Equal(t, drain.Evicted, r.of(t, "pod").Outcome)
	s.completedOnce(victim)
}

// Nobody stops the pods of a kubelet that is out of reach: to wait for them costs the whole deadline and saves nothing. That
// they were left must be said, since somebody has to look after what they held.
func TestNobodyWaitsForPodsOnAnUnreachableNode(t *testing.T) {
	s := setScene(t, 2)
	victim := s.instances[0]
	pods := []string{"first", "second", "third"}
	for _, name := range pods {
		s.podOn(victim, name)
	}
	require.NoError(t, s.Lab.StopKubelet(s.ctx, victim.Node))
	r := s.drain(victim)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPartial, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
	for _, name := range pods {
		line := r.of(t, name)
		require.Equal(t, drain.Remained, line.Outcome)
		require.Contains(t, line.Reason, "kubelet is unreachable")
		require.False(t, line.EvictedAt.IsZero())
		require.Len(t, s.evictions(name), 1)
	}
	require.Len(t, s.podsOn(victim), len(pods))
	s.completedOnce(victim)
}

// A node that keeps our cordon after its instance came back is capacity that is paid for and not used; one that loses an
// admin's cordon runs pods on a machine that somebody is repairing.
func TestANodeThatComesBackLosesWhatWeChangedAndNothingElse(t *testing.T) {
	s := setScene(t, 3)
	clean, held := s.instances[1], s.instances[2]
	s.change(clean, `{"metadata":{"labels":{"team":"db"},"annotations":{"team/note":"ours"}}}`)
	s.change(held, `{"metadata":{"labels":{"`+excludeLabel+`":"admin"}},"spec":{"unschedulable":true}}`)
	stale := make([][]byte, len(s.instances))
	for n, i := range s.instances {
		stale[n] = s.terminate(i).Body
	}
	for n := range s.instances {
		require.Equal(t, termination.StatusDrained, s.invoke(stale[n]).Status)
	}
	s.isMarked(clean, true)
	s.isMarked(held, false)
	require.True(t, hasTaint(s.node(clean), waveKey), "the first drain was to keep its pods off this node")
	require.Equal(t, "quiesce", s.node(clean).Labels[excludeLabel])
	require.Equal(t, "admin", s.node(held).Labels[excludeLabel])

	s.AWS.SetState(clean.ID, "InService")
	s.AWS.SetState(held.ID, "InService")
	result := s.send(sample(t, "sqs-batch", func(batch object) {
		records(batch)[0]["body"], records(batch)[1]["body"] = string(stale[1]), string(stale[2])
	}))
	nothingFailed(t, result.Payload)
	node := s.node(clean)
	require.False(t, node.Spec.Unschedulable)
	require.False(t, hasTaint(node, waveKey))
	require.NotContains(t, node.Labels, excludeLabel)
	require.NotContains(t, node.Annotations, markKey)
	require.Equal(t, "db", node.Labels["team"])
	require.Equal(t, "ours", node.Annotations["team/note"])
	node = s.node(held)
	require.True(t, node.Spec.Unschedulable)
	require.Equal(t, "admin", node.Labels[excludeLabel])
	require.NotContains(t, node.Annotations, markKey)
}

// isMarked: the node is cordoned for its termination, and says whether it was we who closed it.
func (s *scene) isMarked(i env.Instance, byUs bool) {
	s.Helper()
	node := s.node(i)
	require.True(s, node.Spec.Unschedulable)
	var mark struct {
		Hook                    string
		Began, Cordoned         time.Time
		Unschedulable, Excluded bool
	}
	require.NoError(s, json.Unmarshal([]byte(node.Annotations[markKey]), &mark))
	require.Equal(s, env.Hook, mark.Hook)
	require.WithinRange(s, mark.Cordoned, mark.Began, time.Now())
	require.Equal(s, byUs, mark.Unschedulable)
	require.Equal(s, byUs, mark.Excluded)
}

// When a group loses several instances at once, a pod that is evicted onto the next of them is interrupted twice, and a
// database fails over twice.
func TestEvictedPodsDoNotLandOnTheNextVictim(t *testing.T) {
	s := setScene(t, 3)
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
	require.True(t, hasTaint(s.node(next), waveKey))
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

// unjoined is an instance of a group that has no node; name is its private DNS name.
func (s *scene) unjoined(group, name string) env.Instance {
	i := env.Instance{ID: fmt.Sprintf("i-%017x", 1<<32+int(scenes.Add(1))), Node: name, Zone: awstest.Region + "a"}
	s.AWS.AddInstance(group, awstest.Instance{ID: i.ID, Zone: i.Zone, PrivateDNS: name})
	return i
}

// join adds the instance's node.
func (s *scene) join(i env.Instance, n lab.Node) {
	s.Helper()
	n.InstanceID, n.Zone = i.ID, i.Zone
	require.NoError(s, s.Lab.AddNodes(s.ctx, n))
}

func (s *scene) node(i env.Instance) *corev1.Node {
	s.Helper()
	node, err := s.Lab.Client().CoreV1().Nodes().Get(s.ctx, i.Node, metav1.GetOptions{})
	require.NoError(s, err)
	return node
}

// change patches the instance's node, as an admin would.
func (s *scene) change(i env.Instance, patch string) {
	s.Helper()
	_, err := s.Lab.Client().CoreV1().Nodes().Patch(s.ctx, i.Node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(s, err)
}

func hasTaint(node *corev1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule })
}
