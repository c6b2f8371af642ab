package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

func refsOf(peers []escort.Peer) (refs []drain.Ref) {
	for _, p := range peers {
		refs = append(refs, p.Ref)
	}
	return refs
}

const statefulSetManifest = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pooler}
spec:
  replicas: 4
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: pgbouncer}}
  template:
    metadata: {labels: {app: pgbouncer}, annotations: {lab/stop-after: 60s}}
    spec:
      nodeSelector: {pool: NAMESPACE}
      terminationGracePeriodSeconds: 60
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: pgbouncer}}}
      containers: [{name: pgbouncer, image: pgbouncer}]
---
apiVersion: v1
kind: Pod
metadata: {name: stray, labels: {app: pgbouncer}}
spec: {nodeName: node-a, containers: [{name: pgbouncer, image: pgbouncer}]}
`

// poolNodes adds nodes for this scene's pods only.
func (s *labEnv) poolNodes(n int) {
	s.Helper()
	for i := range n {
		node := nodeNamed(s.namespace + "-" + string(rune('a'+i)))
		node.Labels = map[string]string{"pool": s.namespace}
		require.NoError(s, s.AddNodes(s.Context(), node))
		s.Cleanup(func() { _ = s.RemoveNode(s.Context(), node.Name) })
	}
}

func TestPeersAreThePodsThatTheOwnerCountsAndWhetherTheyWillStay(t *testing.T) {
	s := newLabEnv(t)
	s.poolNodes(4)
	s.apply(strings.ReplaceAll(statefulSetManifest, "NAMESPACE", s.namespace))
	s.awaitReady("app=pgbouncer", 5)
	pod := s.inspect(s.pod("pooler-0"))
	nodeOf := func(name string) drain.Node { return drain.Node{Name: s.pod(name).Spec.NodeName} }
	_, err := s.client.Cordon(t.Context(), nodeOf("pooler-1"), "quiesce", time.Now())
	require.NoError(t, err)
	require.NoError(t, s.client.TaintTerminating(t.Context(), []drain.Node{nodeRef(s.pod("pooler-2").Spec.NodeName)}))
	require.NoError(t, s.Client().CoreV1().Pods(s.namespace).Delete(t.Context(), "pooler-3", metav1.DeleteOptions{}))

	peers, err := s.client.Peers(t.Context(), pod)
	require.NoError(t, err)
	require.Len(t, peers, 4)
	for i, name := range []string{"pooler-0", "pooler-1", "pooler-2", "pooler-3"} {
		seen := s.pod(name)
		require.Equal(t, escort.Peer{
			Ref: refOf(seen), Node: seen.Spec.NodeName, Ready: true, Terminating: i == 3, NodeLeaving: i == 1 || i == 2,
			Created: seen.CreationTimestamp.Time,
		}, peers[i])
	}
}

// nodeRef is the node that nodeNamed has made.
func nodeRef(node string) drain.Node {
	return drain.Node{Name: node, InstanceID: "i-" + strings.TrimPrefix(node, "node-")}
}

func TestAPodThatHasEndedIsNoPeer(t *testing.T) {
	s := newLabEnv(t)
	s.apply(deploymentManifest)
	before := s.awaitReady("app=pgbouncer", 2)
	ended := before[0]
	ended.Status.Phase, ended.Status.Conditions = corev1.PodFailed, nil
	_, err := s.Client().CoreV1().Pods(s.namespace).UpdateStatus(t.Context(), &ended, metav1.UpdateOptions{})
	require.NoError(t, err)
	s.awaitReady("app=pgbouncer", 2) // its owner has made another, and keeps it

	peers, err := s.client.Peers(t.Context(), s.inspect(&before[1]))
	require.NoError(t, err)
	require.Len(t, peers, 2)
	require.NotContains(t, refsOf(peers), refOf(&ended))
	require.Equal(t, corev1.PodFailed, s.pod(ended.Name).Status.Phase)
}

func TestAPeerWithoutANodeIsNotReadyAndDoesNotLeave(t *testing.T) {
	s := newLabEnv(t)
	s.poolNodes(2)
	s.apply(strings.ReplaceAll(statefulSetManifest, "NAMESPACE", s.namespace))
	s.awaitReady("app=pgbouncer", 3) // two of four have a node each
	all, err := s.client.Peers(t.Context(), s.inspect(s.pod("pooler-0")))
	require.NoError(t, err)
	require.Len(t, all, 4)
	for _, p := range all {
		require.Equal(t, p.Node != "", p.Ready, p.Name)
		require.False(t, p.NodeLeaving)
	}
}

func TestANodeThatIsGoneTakesItsPodsAlong(t *testing.T) {
	s := newLabEnv(t)
	leaving, err := nodeLookup{Client: s.client, known: map[string]bool{}}.isLeaving(t.Context(), "gone")
	require.NoError(t, err)
	require.True(t, leaving)
}
