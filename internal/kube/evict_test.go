package kube

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

var podResources = schema.GroupResource{Resource: "pods"}

func TestMapEvictError_ServerAnswers_DomainErrors(t *testing.T) {
	ref := drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "1"}
	here := &watchedNode{pods: map[types.NamespacedName]drain.Pod{{Namespace: "db", Name: "pgbouncer-0"}: {Ref: ref}}}
	replaced := &watchedNode{pods: map[types.NamespacedName]drain.Pod{
		{Namespace: "db", Name: "pgbouncer-0"}: {Ref: drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "2"}},
	}}
	blocking := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	blocking.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget pgbouncer needs 2 healthy pods and has 2 currently",
	}}
	overloaded := apierrors.NewTooManyRequests("too many requests", 3)
	several := apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))

	require.NoError(t, here.mapEvictError(ref, nil))
	require.NoError(t, here.mapEvictError(ref, apierrors.NewNotFound(podResources, ref.Name)))
	conflict := apierrors.NewConflict(podResources, ref.Name, errors.New("the UID in the precondition does not match"))
	require.NoError(t, replaced.mapEvictError(ref, conflict), "the pod is gone; another one has its name")
	require.ErrorContains(t, here.mapEvictError(ref, conflict), "evict db/pgbouncer-0")

	var blocked *drain.Blocked
	require.ErrorAs(t, here.mapEvictError(ref, blocking), &blocked)
	require.Equal(t, []string{"db/pgbouncer"}, blocked.PDBs)
	require.ErrorAs(t, here.mapEvictError(ref, several), &blocked)

	var throttled *drain.Throttled
	require.ErrorAs(t, here.mapEvictError(ref, overloaded), &throttled, "a 429 without a PDB as its cause is a throttled request")
	require.Equal(t, 3*time.Second, throttled.After)

	denied := apierrors.NewGenericServerResponse(http.StatusForbidden, "create", podResources, ref.Name, "admission webhook denied", 0, true)
	err := here.mapEvictError(ref, denied)
	require.ErrorContains(t, err, "evict db/pgbouncer-0")
	require.NotErrorAs(t, err, &blocked)
}

// pdbManifest has pods without a controller: a replacement that is Ready would allow another disruption.
const pdbManifest = `
apiVersion: v1
kind: Pod
metadata: {name: pgbouncer-0, labels: {app: pgbouncer}, annotations: {lab/stop-after: 60s}}
spec:
  nodeSelector: {pool: NAMESPACE}
  terminationGracePeriodSeconds: 60
  containers: [{name: pgbouncer, image: pgbouncer}]
---
apiVersion: v1
kind: Pod
metadata: {name: pgbouncer-1, labels: {app: pgbouncer}, annotations: {lab/stop-after: 60s}}
spec:
  nodeSelector: {pool: NAMESPACE}
  terminationGracePeriodSeconds: 60
  containers: [{name: pgbouncer, image: pgbouncer}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pgbouncer}
spec: {minAvailable: 1, selector: {matchLabels: {app: pgbouncer}}}
`

// newPDBEnv returns an environment with two poolers on one node. The PDB allows to evict one.
func newPDBEnv(t *testing.T) (e *labEnv, watched drain.Cluster, one, other *corev1.Pod) {
	t.Helper()
	e = newLabEnv(t)
	e.poolNodes(1)
	e.apply(strings.ReplaceAll(pdbManifest, "NAMESPACE", e.namespace))
	pods := e.awaitReady("app=pgbouncer", 2)
	e.eventually(func() bool {
		pdb, err := e.Client().PolicyV1().PodDisruptionBudgets(e.namespace).Get(t.Context(), "pgbouncer", metav1.GetOptions{})
		return err == nil && pdb.Status.DisruptionsAllowed == 1
	})
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: pods[0].Spec.NodeName})
	require.NoError(t, err)
	return e, watched, &pods[0], &pods[1]
}

func TestEvict_DryRun_ChangesNothing(t *testing.T) {
	e, watched, one, other := newPDBEnv(t)
	dry := drain.EvictOptions{DryRun: true}
	for range 2 {
		require.NoError(t, watched.Evict(t.Context(), refOf(one), dry))
		require.NoError(t, watched.Evict(t.Context(), refOf(other), dry))
	}
	require.Nil(t, e.pod(one.Name).DeletionTimestamp)

	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	var blocked *drain.Blocked
	require.ErrorAs(t, watched.Evict(t.Context(), refOf(other), dry), &blocked)
	require.Equal(t, []string{e.namespace + "/pgbouncer"}, blocked.PDBs)
	require.Nil(t, e.pod(other.Name).DeletionTimestamp)
}

func TestEvict_Grace_IsTheRequestedOrThePods(t *testing.T) {
	e, watched, one, _ := newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{Grace: 6200 * time.Millisecond}))
	require.EqualValues(t, 7, *e.pod(one.Name).DeletionGracePeriodSeconds)

	e, watched, one, _ = newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	require.EqualValues(t, 60, *e.pod(one.Name).DeletionGracePeriodSeconds)
}

// A deletion is the last resort. It must reach exactly this pod, with the grace that is left until the deadline.
func TestDelete_PDBBlocks_DeletesOnlyTheUID(t *testing.T) {
	e, watched, one, other := newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	require.NoError(t, watched.Delete(t.Context(), refOf(other), 12*time.Second))
	require.EqualValues(t, 12, *e.pod(other.Name).DeletionGracePeriodSeconds)

	namesake := refOf(one)
	namesake.UID = "another"
	require.NoError(t, watched.Delete(t.Context(), namesake, time.Second), "the node has no such pod")
	require.EqualValues(t, 60, *e.pod(one.Name).DeletionGracePeriodSeconds, "the pod with the other UID is not deleted")
	namesake.Name = "missing"
	require.NoError(t, watched.Delete(t.Context(), namesake, time.Second))
}

func TestWatchPods_KubeletStopsAndReturns_IsSeen(t *testing.T) {
	e := newLabEnv(t)
	e.poolNodes(1)
	nodes := e.Client().CoreV1().Nodes()
	name := nodeNamed(e.namespace + "-a").Name
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: name})
	require.NoError(t, err)
	require.False(t, watched.Unreachable())
	require.NoError(t, e.StopKubelet(t.Context(), name))
	e.eventually(watched.Unreachable)
	_, err = nodes.PatchStatus(t.Context(), name, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`))
	require.NoError(t, err)
	e.eventually(func() bool { return !watched.Unreachable() })
	require.NoError(t, e.RemoveNode(t.Context(), name))
	e.eventually(watched.Unreachable)
}
