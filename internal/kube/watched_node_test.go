package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

func podNamed(name string, uid types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, UID: uid}}
}

func createdAfterCordon(pods []drain.Pod) (names []string) {
	for _, p := range pods {
		if p.CreatedAfterCordon {
			names = append(names, p.UID)
		}
	}
	return names
}

func TestObserve_PodNotInFirstList_CreatedAfterCordon(t *testing.T) {
	c := newWatchedNode(podNamed("web", "1"), podNamed("db-0", "2"))
	require.Empty(t, createdAfterCordon(c.Pods()))

	c.put(podNamed("web", "1")) // changed
	c.drop(podNamed("db-0", "2"))
	c.put(podNamed("db-0", "3"))
	require.Equal(t, []string{"3"}, createdAfterCordon(c.Pods()), "a new UID is another pod")

	c.replace(podNamed("web", "1"), podNamed("db-0", "3"), podNamed("new", "4")) // the watch broke
	require.ElementsMatch(t, []string{"3", "4"}, createdAfterCordon(c.Pods()))
}

func (w *watchedNode) nodeSink(ours drain.Node) *nodeSink {
	w.node = newNodeWatch(ours)
	return &nodeSink{watchedNode: w}
}

func (s *nodeSink) replace(n *corev1.Node) {
	s.begin()
	if n != nil {
		s.put(n)
	}
	s.end()
}

// nodeOf returns a node of an instance, as the lab makes them.
func nodeOf(uid types.UID, instance string, ready corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: uid},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
	if n.Spec.Unschedulable = true; instance != "" {
		n.Spec.ProviderID = "aws:///us-east-1a/" + instance
	}
	return n
}

func TestUnreachable_NodeReadyUnknownOrGone_True(t *testing.T) {
	c := newWatchedNode()
	<-c.changed
	u := c.nodeSink(drain.Node{})
	ready := nodeOf("1", "", corev1.ConditionTrue)
	for _, step := range []struct {
		what        string
		do          func()
		unreachable bool
		notifies    bool
	}{
		{"is ready", func() { u.replace(ready) }, false, false},
		{"is lost", func() { u.put(nodeOf("1", "", corev1.ConditionUnknown)) }, true, true},
		{"is still lost", func() { u.put(nodeOf("1", "", corev1.ConditionUnknown)) }, true, false},
		{"is back, and not ready", func() { u.put(nodeOf("1", "", corev1.ConditionFalse)) }, false, true},
		{"is deleted", func() { u.drop(ready) }, true, true},
		{"is registered again", func() { u.put(ready) }, false, true},
		{"is found missing", func() { u.replace(nil) }, true, true},
	} {
		step.do()
		require.Equal(t, step.unreachable, c.Node().Unreachable, step.what)
		select {
		case <-c.changed:
			require.True(t, step.notifies, step.what)
		default:
			require.False(t, step.notifies, step.what)
		}
	}
}

func TestNodeState_SomeoneOpensOrReplacesNode_IsSeen(t *testing.T) {
	ours := drain.Node{Name: "node-a", UID: "1", InstanceID: "i-a", Cordoned: time.Now()}
	open := func(n *corev1.Node) *corev1.Node { n.Spec.Unschedulable = false; return n }
	for name, c := range map[string]struct {
		ours  func(*drain.Node)
		first *corev1.Node
		then  *corev1.Node
		state drain.NodeState
	}{
		"stays as it was":          {nil, nodeOf("1", "i-a", corev1.ConditionTrue), nil, drain.NodeState{}},
		"is opened":                {nil, nodeOf("1", "i-a", corev1.ConditionTrue), open(nodeOf("1", "i-a", corev1.ConditionTrue)), drain.NodeState{Uncordoned: true}},
		"was open from the start":  {nil, open(nodeOf("1", "i-a", corev1.ConditionTrue)), nil, drain.NodeState{Uncordoned: true}},
		"is closed again":          {nil, open(nodeOf("1", "i-a", corev1.ConditionTrue)), nodeOf("1", "i-a", corev1.ConditionTrue), drain.NodeState{}},
		"could not be cordoned":    {func(n *drain.Node) { n.Cordoned = time.Time{} }, open(nodeOf("1", "i-a", corev1.ConditionTrue)), nil, drain.NodeState{Uncordoned: true}},
		"is another object":        {nil, nodeOf("1", "i-a", corev1.ConditionTrue), nodeOf("2", "i-a", corev1.ConditionTrue), drain.NodeState{Replaced: true}},
		"was another object":       {nil, nodeOf("2", "i-a", corev1.ConditionTrue), nil, drain.NodeState{Replaced: true}},
		"gets our provider ID":     {nil, nodeOf("1", "", corev1.ConditionTrue), nodeOf("1", "i-a", corev1.ConditionTrue), drain.NodeState{}},
		"was found without an ID":  {func(n *drain.Node) { n.InstanceID = "" }, nodeOf("1", "", corev1.ConditionTrue), nodeOf("1", "i-a", corev1.ConditionTrue), drain.NodeState{}},
		"gets another provider ID": {nil, nodeOf("1", "", corev1.ConditionTrue), nodeOf("1", "i-b", corev1.ConditionTrue), drain.NodeState{Replaced: true}},
		"was found by its address": {nil, nodeOf("1", "i-b", corev1.ConditionTrue), nodeOf("1", "i-b", corev1.ConditionTrue), drain.NodeState{}},
		"loses its instance":       {nil, nodeOf("1", "i-a", corev1.ConditionTrue), nodeOf("1", "i-b", corev1.ConditionTrue), drain.NodeState{Replaced: true}},
	} {
		t.Run(name, func(t *testing.T) {
			w, of := newWatchedNode(), ours
			if c.ours != nil {
				c.ours(&of)
			}
			sink := w.nodeSink(of)
			sink.replace(c.first)
			if c.then != nil {
				sink.put(c.then)
			}
			require.Equal(t, c.state, w.Node())
		})
	}
}

// Without limits, a tenant's finished pods would need all memory.
func TestFinishedPods_Many_CountedAndFewNamed(t *testing.T) {
	pods := []*corev1.Pod{podNamed("web", "1")}
	for i := range 150 {
		pods = append(pods, withPhase(corev1.PodFailed, podNamed(fmt.Sprint("job-", i), types.UID(fmt.Sprint("job-", i)))))
	}
	w := newWatchedNode(pods...)
	require.Equal(t, 150, w.FinishedPods())
	require.Len(t, w.Pods(), 1+maxFinishedNamed)
	w.put(pods[1])
	w.put(pods[150])
	require.Equal(t, 150, w.FinishedPods(), "a change is not another pod")
	w.put(withPhase(corev1.PodSucceeded, podNamed("web", "1")))
	require.Equal(t, 151, w.FinishedPods())
	require.Len(t, w.Pods(), 1+maxFinishedNamed, "a pod that was seen running stays named")
	for _, p := range pods[1:] {
		w.drop(p)
	}
	require.Equal(t, 1, w.FinishedPods())
	require.Len(t, w.Pods(), 1)
}

// A map of many short labels needs far more memory than their bytes.
func TestBoundedLabels_TooMany_NoneAreKept(t *testing.T) {
	all := map[string]string{}
	for n := range maxLabels {
		all[fmt.Sprint(n)] = ""
	}
	require.Len(t, boundedLabels(all), maxLabels)
	all["more"] = ""
	require.Nil(t, boundedLabels(all))
}

func TestBoundedCommand_TooLong_ItsBeginningIsKept(t *testing.T) {
	require.Equal(t, []string{"sleep", "15"}, boundedCommand([]string{"sleep", "15"}))
	kept := boundedCommand([]string{"sh", "-c", "sleep 15; " + strings.Repeat("x", 2*maxCommand), strings.Repeat("y", maxCommand)})
	require.Len(t, kept, 3)
	require.Equal(t, "sleep 15; x", kept[2][:11])
	require.LessOrEqual(t, len(kept[2]), maxCommand)
}

func TestDetails_AllPodsHaveMuch_LaterOnesWithout(t *testing.T) {
	w := newWatchedNode()
	value := strings.Repeat("x", maxLabelBytes-100)
	const pods = 2 * maxDetailBytes / maxLabelBytes
	for i := range pods {
		p := podNamed(fmt.Sprint("web-", i), types.UID(fmt.Sprint(i)))
		p.Namespace = fmt.Sprint("tenant-", i%8)
		p.Labels = map[string]string{"x": value}
		w.put(p)
	}
	size, unknown := 0, 0
	for _, p := range w.current.pods {
		size += p.detailBytes()
		if p.labelsUnknown {
			unknown++
		}
	}
	require.LessOrEqual(t, size, maxDetailBytes)
	require.Equal(t, size, w.current.detailed)
	require.InDelta(t, pods/2, unknown, pods/10)
	for _, p := range w.current.all() {
		w.current.remove(p.Ref)
	}
	require.Zero(t, w.current.detailed)
	require.Empty(t, w.current.details)
}

func TestDetails_StateOfPatroni_IsCountedAndDropped(t *testing.T) {
	p := seenPod{}
	p.Annotations = map[string]string{escort.PatroniStatus: strings.Repeat("x", 4<<10), "quiesce/drain": "false"}
	require.Greater(t, p.detailBytes(), 4<<10)
	p.dropDetails()
	require.Zero(t, p.detailBytes(), "what is kept beyond the bound must not be counted: others would lose theirs")
	require.Equal(t, map[string]string{"quiesce/drain": "false"}, p.Annotations)
}

// The number of pods that only finalizers keep has no bound, so that one tenant could take all of the memory for labels.
func TestDetails_OneNamespaceHasMuch_OthersKeepTheirLabels(t *testing.T) {
	w := newWatchedNode()
	// The small ones fill what the large ones leave.
	for _, kind := range []struct{ bytes, pods int }{{maxLabelBytes - 100, 2 * maxDetailBytes / maxLabelBytes}, {1000, 20}, {1, 20}} {
		for i := range kind.pods {
			name := fmt.Sprintf("kept-%d-%d", kind.bytes, i)
			p := podNamed(name, types.UID(name))
			p.Namespace, p.Labels = "hostile", map[string]string{"x": strings.Repeat("x", kind.bytes)}
			w.put(p)
		}
	}
	pooler := podNamed("pgbouncer", "u")
	pooler.Labels = map[string]string{"app": "pgbouncer"}
	w.put(pooler)
	found, is := w.pod(drain.Ref{Namespace: "app", Name: "pgbouncer", UID: "u"})
	require.True(t, is)
	require.Equal(t, pooler.Labels, found.Labels)
	require.False(t, found.labelsUnknown)
	require.LessOrEqual(t, w.current.detailed, maxNamespaceDetailBytes+maxLabelBytes)
}
