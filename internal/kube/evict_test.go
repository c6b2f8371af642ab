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

func TestAnswersToAnEvictionInTheDomainsTerms(t *testing.T) {
	ref := drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "1"}
	here := &watchedNode{pods: map[types.NamespacedName]drain.Pod{{Namespace: "db", Name: "pgbouncer-0"}: {Ref: ref}}}
	reborn := &watchedNode{pods: map[types.NamespacedName]drain.Pod{
		{Namespace: "db", Name: "pgbouncer-0"}: {Ref: drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "2"}},
	}}
	budget := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	budget.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget pgbouncer needs 2 healthy pods and has 2 currently",
	}}
	overloaded := apierrors.NewTooManyRequests("too many requests", 3)
	several := apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))

	require.NoError(t, here.mapEvictError(ref, nil))
	require.NoError(t, here.mapEvictError(ref, apierrors.NewNotFound(podResources, ref.Name)))
	conflict := apierrors.NewConflict(podResources, ref.Name, errors.New("the UID in the precondition does not match"))
	require.NoError(t, reborn.mapEvictError(ref, conflict), "the pod is gone; another has its name")
	require.ErrorContains(t, here.mapEvictError(ref, conflict), "evict db/pgbouncer-0")

	var blocked *drain.Blocked
	require.ErrorAs(t, here.mapEvictError(ref, budget), &blocked)
	require.Equal(t, []string{"db/pgbouncer"}, blocked.PDBs)
	require.ErrorAs(t, here.mapEvictError(ref, several), &blocked)

	var throttled *drain.Throttled
	require.ErrorAs(t, here.mapEvictError(ref, overloaded), &throttled, "a 429 without a budget's cause is the server's own")
	require.Equal(t, 3*time.Second, throttled.After)

	denied := apierrors.NewGenericServerResponse(http.StatusForbidden, "create", podResources, ref.Name, "admission webhook denied", 0, true)
	err := here.mapEvictError(ref, denied)
	require.ErrorContains(t, err, "evict db/pgbouncer-0")
	require.NotErrorAs(t, err, &blocked)
}

// pdbManifest has pods that nobody replaces: a replacement that is Ready gives the budget another disruption.
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

// newPDBEnv makes a scene with two poolers on one node, one of which may go.
func newPDBEnv(t *testing.T) (s *labEnv, watched drain.Cluster, one, other *corev1.Pod) {
	t.Helper()
	s = newLabEnv(t)
	s.poolNodes(1)
	s.apply(strings.ReplaceAll(pdbManifest, "NAMESPACE", s.namespace))
	pods := s.awaitReady("app=pgbouncer", 2)
	s.eventually(func() bool {
		budget, err := s.Client().PolicyV1().PodDisruptionBudgets(s.namespace).Get(t.Context(), "pgbouncer", metav1.GetOptions{})
		return err == nil && budget.Status.DisruptionsAllowed == 1
	})
	watched, err := s.client.WatchPods(t.Context(), drain.Node{Name: pods[0].Spec.NodeName})
	require.NoError(t, err)
	return s, watched, &pods[0], &pods[1]
}

func TestADryRunEvictsNothingAndTakesNothingFromTheBudget(t *testing.T) {
	s, watched, one, other := newPDBEnv(t)
	dry := drain.EvictOptions{DryRun: true}
	for range 2 {
		require.NoError(t, watched.Evict(t.Context(), refOf(one), dry))
		require.NoError(t, watched.Evict(t.Context(), refOf(other), dry))
	}
	require.Nil(t, s.pod(one.Name).DeletionTimestamp)

	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	var blocked *drain.Blocked
	require.ErrorAs(t, watched.Evict(t.Context(), refOf(other), dry), &blocked)
	require.Equal(t, []string{s.namespace + "/pgbouncer"}, blocked.PDBs)
	require.Nil(t, s.pod(other.Name).DeletionTimestamp)
}

func TestAnEvictedPodHasTheGraceThatIsAskedForOrItsOwn(t *testing.T) {
	s, watched, one, _ := newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{Grace: 6200 * time.Millisecond}))
	require.EqualValues(t, 7, *s.pod(one.Name).DeletionGracePeriodSeconds)

	s, watched, one, _ = newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	require.EqualValues(t, 60, *s.pod(one.Name).DeletionGracePeriodSeconds)
}

// A deletion is the last resort: it must reach this very pod, and with just the grace that there is.
func TestADeletionAsksNoBudgetAndMeansThisVeryPod(t *testing.T) {
	s, watched, one, other := newPDBEnv(t)
	require.NoError(t, watched.Evict(t.Context(), refOf(one), drain.EvictOptions{}))
	require.NoError(t, watched.Delete(t.Context(), refOf(other), 12*time.Second))
	require.EqualValues(t, 12, *s.pod(other.Name).DeletionGracePeriodSeconds)

	impostor := refOf(one)
	impostor.UID = "another"
	require.NoError(t, watched.Delete(t.Context(), impostor, time.Second), "which the node does not have")
	require.EqualValues(t, 60, *s.pod(one.Name).DeletionGracePeriodSeconds, "the one that it has was not meant")
	impostor.Name = "nobody"
	require.NoError(t, watched.Delete(t.Context(), impostor, time.Second))
}

func TestAKubeletThatIsLostAndComesBackIsSeen(t *testing.T) {
	s := newLabEnv(t)
	s.poolNodes(1)
	nodes := s.Client().CoreV1().Nodes()
	name := nodeNamed(s.namespace + "-a").Name
	watched, err := s.client.WatchPods(t.Context(), drain.Node{Name: name})
	require.NoError(t, err)
	require.False(t, watched.Unreachable())
	require.NoError(t, s.StopKubelet(t.Context(), name))
	s.eventually(watched.Unreachable)
	_, err = nodes.PatchStatus(t.Context(), name, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`))
	require.NoError(t, err)
	s.eventually(func() bool { return !watched.Unreachable() })
	require.NoError(t, s.RemoveNode(t.Context(), name))
	s.eventually(watched.Unreachable)
}
