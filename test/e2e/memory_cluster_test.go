package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	// imagesPerNode is how many images a kubelet reports at the most, and imageSize about how long their names are.
	imagesPerNode, imageSize = 50, 150
	blockedPod               = "web-0"
)

// largeCluster is the number of pods on one node, of PDBs in their namespace, and of nodes in the cluster.
type largeCluster struct{ pods, nodes int }

func largeClusterOf() largeCluster {
	if isLong() {
		return largeCluster{500, 5000}
	}
	return largeCluster{100, 1000}
}

// A function of 128 MB drains a full node of a large cluster, also when it must look at all nodes, and at all PDBs of a namespace.
func TestMemory_LargeCluster_HalfOfASmallFunction(t *testing.T) {
	lab.Require(t)
	large := largeClusterOf()
	s := newFixtureOn(t, ownEnv(t), 0)
	s.each(large.nodes, func(i int) error {
		_, err := s.Lab.Client().CoreV1().Nodes().Create(s.ctx, withImages(manyNode(i)), metav1.CreateOptions{})
		return err
	})
	target := s.instanceWithoutNode(s.group, "ip-10-9-9-9.ec2.internal")
	target.Node = "zz-unrelated"
	s.joinNode(target, lab.Node{Name: target.Node})
	s.fillWithPDBs(target, large.pods)

	end := s.begin(target)
	s.until("the function watches the PDBs", func() (bool, error) {
		return slices.Contains(verbsOn(s.requests(s.function), "poddisruptionbudgets"), "watch"), nil
	})
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Patch(
		s.ctx, blockedPod, types.MergePatchType, []byte(`{"spec":{"minAvailable":0}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	r := end()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Len(t, r.Pods, large.pods)
	require.Contains(t, verbsOn(s.requests(s.function), "nodes"), "list", "it looked at all nodes")
	t.Logf("%d pods, %d PDBs, %d nodes: %d MB resident at the most", large.pods, large.pods, large.nodes, s.function.MaxRSS()>>20)
	require.LessOrEqual(t, s.function.MaxRSS(), int64(peakMemory))
}

// withImages adds the images that a kubelet reports.
func withImages(n *corev1.Node) *corev1.Node {
	for image := range imagesPerNode {
		name := fmt.Sprintf("registry.example/%0*d", imageSize, image)
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: 1 << 20})
	}
	return n
}

// fillWithPDBs puts bare pods on the node, each with a PDB of its own. All but the one of blockedPod allow its eviction.
func (s *fixture) fillWithPDBs(i env.Instance, pods int) {
	s.Helper()
	s.each(pods, func(n int) error {
		template := s.template(fmt.Sprint("web-", n))
		onNode(i)(&template.Spec)
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name = fmt.Sprint("web-", n)
		if _, err := s.Lab.Client().CoreV1().Pods(s.group).Create(s.ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		available := intstr.FromInt32(0)
		if pod.Name == blockedPod {
			available = intstr.FromInt32(1)
		}
		_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Create(s.ctx, &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
			Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &available, Selector: &metav1.LabelSelector{MatchLabels: template.Labels}},
		}, metav1.CreateOptions{})
		return err
	})
	s.until("they run, and all PDBs are counted", func() (bool, error) {
		isPending := func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning }
		all, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).List(s.ctx, metav1.ListOptions{})
		if err != nil || slices.ContainsFunc(s.podsOn(i), isPending) {
			return false, err
		}
		return !slices.ContainsFunc(all.Items, func(b policyv1.PodDisruptionBudget) bool { return b.Status.CurrentHealthy == 0 }), nil
	})
}
