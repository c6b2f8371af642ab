package kube

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/termination"
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

// poolNodes adds n nodes for the pods of this namespace only.
func (e *labEnv) poolNodes(n int) {
	e.Helper()
	for i := range n {
		node := nodeNamed(e.namespace + "-" + string(rune('a'+i)))
		node.Labels = map[string]string{"pool": e.namespace}
		require.NoError(e, e.AddNodes(e.Context(), node))
		e.Cleanup(func() { _ = e.RemoveNode(context.Background(), node.Name) })
	}
}

func TestPeers_StatefulSet_HasStateOfPodAndNode(t *testing.T) {
	e := newLabEnv(t)
	e.poolNodes(4)
	e.apply(strings.ReplaceAll(statefulSetManifest, "NAMESPACE", e.namespace))
	e.awaitReady("app=pgbouncer", 5)
	pod := e.inspect(e.pod("pooler-0"))
	nodeOf := func(name string) drain.Node { return drain.Node{Name: e.pod(name).Spec.NodeName} }
	_, err := e.client.Cordon(t.Context(), nodeOf("pooler-1"), termination.Closing{Hook: "quiesce", Began: time.Now()})
	require.NoError(t, err)
	require.NoError(t, e.client.TaintTerminating(t.Context(), []drain.Node{nodeRef(e.pod("pooler-2").Spec.NodeName)}))
	require.NoError(t, e.Client().CoreV1().Pods(e.namespace).Delete(t.Context(), "pooler-3", metav1.DeleteOptions{}))

	peers, err := e.client.Peers(t.Context(), pod)
	require.NoError(t, err)
	require.Len(t, peers, 4)
	for i, name := range []string{"pooler-0", "pooler-1", "pooler-2", "pooler-3"} {
		seen := e.pod(name)
		require.Equal(t, escort.Peer{
			Ref: refOf(seen), Node: seen.Spec.NodeName, Ready: true, Terminating: i == 3, NodeLeaving: i == 1 || i == 2,
			Created: seen.CreationTimestamp.Time,
		}, peers[i])
	}
}

// nodeRef returns the node that nodeNamed describes.
func nodeRef(node string) drain.Node {
	return drain.Node{Name: node, InstanceID: "i-" + strings.TrimPrefix(node, "node-")}
}

func TestPeers_PodFailed_IsNotCounted(t *testing.T) {
	e := newLabEnv(t)
	e.apply(deploymentManifest)
	before := e.awaitReady("app=pgbouncer", 2)
	ended := before[0]
	ended.Status.Phase, ended.Status.Conditions = corev1.PodFailed, nil
	_, err := e.Client().CoreV1().Pods(e.namespace).UpdateStatus(t.Context(), &ended, metav1.UpdateOptions{})
	require.NoError(t, err)
	e.awaitReady("app=pgbouncer", 2) // the owner has created a replacement

	peers, err := e.client.Peers(t.Context(), e.inspect(&before[1]))
	require.NoError(t, err)
	require.Len(t, peers, 2)
	require.NotContains(t, refsOf(peers), refOf(&ended))
	require.Equal(t, corev1.PodFailed, e.pod(ended.Name).Status.Phase)
}

func TestPeers_PodWithoutNode_NotReadyNotLeaving(t *testing.T) {
	e := newLabEnv(t)
	e.poolNodes(2)
	e.apply(strings.ReplaceAll(statefulSetManifest, "NAMESPACE", e.namespace))
	e.awaitPod("pooler-3")           // the last to be made
	e.awaitReady("app=pgbouncer", 3) // two of four have a node each
	all, err := e.client.Peers(t.Context(), e.inspect(e.pod("pooler-0")))
	require.NoError(t, err)
	require.Len(t, all, 4)
	for _, p := range all {
		require.Equal(t, p.Node != "", p.Ready, p.Name)
		require.False(t, p.NodeLeaving)
	}
}

func TestIsLeaving_NodeGone_True(t *testing.T) {
	e := newLabEnv(t)
	leaving, err := nodeLookup{Client: e.client, known: map[string]bool{}}.isLeaving(t.Context(), "gone")
	require.NoError(t, err)
	require.True(t, leaving)
}

// Karpenter taints a node, waits for its replacement, and evicts the pods. A peer there counted as one that stays, so a group could lose both.
func TestIsLeaving_RemovedByAnAutoscaler_True(t *testing.T) {
	for key, want := range map[string]bool{"karpenter.sh/disrupted": true, "ToBeDeletedByClusterAutoscaler": true, "dedicated": false, corev1.TaintNodeUnreachable: false} {
		client, _ := answering(t, func(*http.Request) string {
			return `{"kind":"Node","apiVersion":"v1","metadata":{"name":"a"},"spec":{"taints":[{"key":"` + key + `","effect":"NoSchedule"}]}}`
		})
		leaving, err := nodeLookup{Client: client, known: map[string]bool{}}.isLeaving(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, want, leaving, key)
	}
}

// Whoever takes turns gives up early only where a permission is missing.
func TestTurns_Forbidden_PermissionIsMissing(t *testing.T) {
	e := newLabEnv(t)
	through := &network{answer: func(*http.Request) *http.Response {
		return statusResponse(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
	}}
	c := e.clientThrough(through)
	_, _, err := c.AcquireGroupLease(t.Context(), "quiesce-test")
	require.ErrorIs(t, err, escort.ErrForbidden)
	pod := drain.Pod{Ref: drain.Ref{Namespace: e.namespace, Name: "web"}}
	_, err = c.Peers(t.Context(), escort.Pod{Pod: pod, Owner: escort.Owner{Kind: "ReplicaSet", Name: "web", UID: "uid"}})
	require.ErrorIs(t, err, escort.ErrForbidden)
}
