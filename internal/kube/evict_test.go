package kube

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
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

func podWithUID(namespace, name, uid string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}}
}

// tooManyRequests returns a 429, with the cause that a PDB's has.
func tooManyRequests(message, cause string) *apierrors.StatusError {
	err := apierrors.NewTooManyRequests(message, 3)
	if cause != "" {
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: cause}}
	}
	return err
}

func TestMapEvictError_ServerAnswers_DomainErrors(t *testing.T) {
	ref := refNamed("db", "pgbouncer-0", "1")
	here, replaced := newWatchedNode(podWithUID("db", "pgbouncer-0", "1")), newWatchedNode(podWithUID("db", "pgbouncer-0", "2"))
	blocking := tooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.",
		"The disruption budget pgbouncer needs 2 healthy pods and has 2 currently")
	several := apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))

	require.NoError(t, here.mapEvictError(ref, nil))
	require.NoError(t, here.mapEvictError(ref, apierrors.NewNotFound(podResources, ref.Name)))
	conflict := apierrors.NewConflict(podResources, ref.Name, errors.New("the UID in the precondition does not match"))
	require.NoError(t, replaced.mapEvictError(ref, conflict), "the pod is gone; another one has its name")
	require.ErrorContains(t, here.mapEvictError(ref, conflict), "evict db/pgbouncer-0")

	var blocked *drain.Blocked
	require.ErrorAs(t, here.mapEvictError(ref, blocking), &blocked)
	require.Equal(t, []string{"db/pgbouncer"}, blocked.PDBs)
	require.False(t, blocked.Never)
	require.ErrorAs(t, here.mapEvictError(ref, several), &blocked)
	require.True(t, blocked.Never, "a person must remove one of them")

	var throttled *drain.Throttled
	require.ErrorAs(t, here.mapEvictError(ref, tooManyRequests("too many requests", "")), &throttled, "a 429 without a PDB as its cause")
	require.Equal(t, 3*time.Second, throttled.After)
	require.ErrorAs(t, here.mapEvictError(ref, apierrors.NewTooManyRequests("later", 1<<30)), &throttled)
	require.Equal(t, maxRetryAfter, throttled.After)
}

// A webhook chooses code and causes of its denial itself. Whatever it chooses, the denial is about this pod only.
func TestMapAnswer_AdmissionDenies_RefusedWithItsText(t *testing.T) {
	here, ref := newWatchedNode(podWithUID("db", "pgbouncer-0", "1")), refNamed("db", "pgbouncer-0", "1")
	webhook := `admission webhook "evictions.example.com" denied the request: ask the owner`
	policy := `pods "pgbouncer-0" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ask the owner`
	for name, denial := range map[string]*apierrors.StatusError{
		"webhook, 403":          {ErrStatus: metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden, Message: webhook}},
		"webhook, 429":          tooManyRequests(webhook, ""),
		"webhook, 429 as a PDB": tooManyRequests(webhook, "The disruption budget x needs 2 healthy pods"),
		"webhook, 500":          {ErrStatus: metav1.Status{Code: 500, Reason: metav1.StatusReasonInternalError, Message: webhook}},
		"webhook, 400":          {ErrStatus: metav1.Status{Code: 400, Reason: metav1.StatusReasonBadRequest, Message: webhook}},
		"webhook, 404":          {ErrStatus: metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: webhook}},
		"policy, 403":           {ErrStatus: metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden, Message: policy}},
		"policy, 422":           {ErrStatus: metav1.Status{Code: 422, Reason: metav1.StatusReasonInvalid, Message: policy}},
		"a long text": {ErrStatus: metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: webhook + strings.Repeat("x", 1<<20)}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{here.mapEvictError(ref, denial), here.mapAnswer("delete", ref, denial)} {
				var refused *drain.Refused
				require.ErrorAs(t, err, &refused)
				require.Contains(t, refused.Reason, "ask the owner")
				require.LessOrEqual(t, len(refused.Reason), drain.MaxText)
			}
		})
	}
}

func TestMapAnswer_OtherErrors_NotRefused(t *testing.T) {
	here, ref := newWatchedNode(podWithUID("db", "pgbouncer-0", "1")), refNamed("db", "pgbouncer-0", "1")
	for name, text := range map[string]string{
		"a webhook that fails":  `failed calling webhook "evictions.example.com": failed to call webhook: connection refused`,
		"missing permissions":   `pods "pgbouncer-0" is forbidden: User "x" cannot create resource "pods/eviction"`,
		"a quotation of others": `etcd said: admission webhook "x" denied the request`,
		"one that quotes PDBs":  `failed calling webhook "x": This pod has more than one PodDisruptionBudget`,
		"a long text":           strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			failure := &apierrors.StatusError{ErrStatus: metav1.Status{Code: 500, Reason: metav1.StatusReasonInternalError, Message: text}}
			err := here.mapEvictError(ref, failure)
			require.NotErrorAs(t, err, new(*drain.Refused))
			require.NotErrorAs(t, err, new(*drain.Blocked))
			require.ErrorContains(t, err, "evict db/pgbouncer-0")
			require.ErrorContains(t, err, text[:40])
			require.Less(t, len(err.Error()), 2*drain.MaxText)
		})
	}
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
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: pods[0].Spec.NodeName}, drain.EffortFull)
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
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: name}, drain.EffortFull)
	require.NoError(t, err)
	unreachable := func() bool { return watched.Node().Unreachable }
	require.False(t, unreachable())
	require.NoError(t, e.StopKubelet(t.Context(), name))
	e.eventually(unreachable)
	_, err = nodes.PatchStatus(t.Context(), name, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`))
	require.NoError(t, err)
	e.eventually(func() bool { return !unreachable() })
	require.NoError(t, e.RemoveNode(t.Context(), name))
	e.eventually(unreachable)
}

// disruption returns the pod's condition DisruptionTarget.
func disruption(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.DisruptionTarget {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// An eviction gives the pod a condition, and a Job can have a rule for it. A deletion has to do the same.
func TestDelete_PodOfJob_JobIgnoresFailure(t *testing.T) {
	e := newLabEnv(t)
	e.apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: import}
spec:
  backoffLimit: 0
  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}
  template:
    metadata: {labels: {app: import}, annotations: {lab/stop-after: 60s, lab/complete-after: 600s}}
    spec: {nodeName: node-a, restartPolicy: Never, terminationGracePeriodSeconds: 60, containers: [{name: app, image: app}]}
`)
	pod := e.awaitReady("app=import", 1)[0]
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: "node-a"}, drain.EffortFull)
	require.NoError(t, err)
	require.NoError(t, watched.Delete(t.Context(), refOf(&pod), 5*time.Second))
	deleted := e.pod(pod.Name)
	require.NotNil(t, deleted.DeletionTimestamp)
	condition := disruption(deleted)
	require.NotNil(t, condition)
	require.Equal(t, corev1.ConditionTrue, condition.Status)
	require.Equal(t, conditionReason, condition.Reason)
	require.True(t, isReady(deleted), "no other condition has changed")

	_, err = e.Client().CoreV1().Pods(e.namespace).Patch(t.Context(), pod.Name, types.MergePatchType,
		[]byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status") // its kubelet has stopped it
	require.NoError(t, err)
	e.eventually(func() bool {
		job, err := e.Client().BatchV1().Jobs(e.namespace).Get(t.Context(), "import", metav1.GetOptions{})
		require.NoError(t, err)
		require.Zero(t, job.Status.Failed)
		for _, c := range job.Status.Conditions {
			require.NotEqual(t, "Failed", string(c.Type), c.Message)
		}
		pods, err := e.Client().CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=import"})
		require.NoError(t, err)
		return slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.UID != pod.UID })
	})
}

// The condition is a help. Without it, the deletion must still come, and soon.
func TestDelete_ConditionDenied_DeletesAnyway(t *testing.T) {
	e := newLabEnv(t)
	node := e.bareNode()
	pod := e.createPod(node.Name, "web", nil)
	for what, answer := range map[string]func(*http.Request) *http.Response{
		"denied": func(*http.Request) *http.Response {
			return statusResponse(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
		},
		"no answer": func(r *http.Request) *http.Response {
			<-r.Context().Done()
			return statusResponse(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "no")
		},
	} {
		t.Run(what, func(t *testing.T) {
			through := &network{answer: func(r *http.Request) *http.Response {
				if strings.HasSuffix(r.URL.Path, "/status") {
					return answer(r)
				}
				return nil
			}}
			watched, err := e.clientThrough(through).WatchPods(t.Context(), node, drain.EffortFull)
			require.NoError(t, err)
			began := time.Now()
			require.NoError(t, watched.Delete(t.Context(), refOf(pod), time.Second))
			require.Less(t, time.Since(began), callTimeout)
			pod = e.createPod(node.Name, "next-"+string(what[0]), nil)
		})
	}
}

func TestDelete_PodIsTerminating_OneRequest(t *testing.T) {
	e := newLabEnv(t)
	node, through := e.bareNode(), &network{}
	pod := e.createPod(node.Name, "web", nil)
	require.NoError(t, e.Client().CoreV1().Pods(e.namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
	watched, err := e.clientThrough(through).WatchPods(t.Context(), node, drain.EffortFull)
	require.NoError(t, err)
	require.NoError(t, watched.Delete(t.Context(), refOf(pod), 3*time.Second))
	require.EqualValues(t, 3, *e.pod(pod.Name).DeletionGracePeriodSeconds)
	require.Nil(t, disruption(e.pod(pod.Name)))
	path := "/api/v1/namespaces/" + e.namespace + "/pods/web"
	require.Equal(t, 1, through.requests("DELETE "+path))
	require.Zero(t, through.requests("PATCH "+path+"/status"))
}

func TestWatchPods_NodeOpenedAndReplaced_IsSeen(t *testing.T) {
	e := newLabEnv(t)
	node := e.bareNode()
	nodes := e.Client().CoreV1().Nodes()
	watched, err := e.client.WatchPods(t.Context(), node, drain.EffortFull)
	require.NoError(t, err)
	require.Zero(t, watched.Node())
	for _, open := range []bool{true, false} {
		_, err = nodes.Patch(t.Context(), node.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, !open), metav1.PatchOptions{})
		require.NoError(t, err)
		e.eventually(func() bool { return watched.Node().Uncordoned == open })
	}
	require.NoError(t, nodes.Delete(t.Context(), node.Name, metav1.DeleteOptions{}))
	e.eventually(func() bool { return watched.Node() == drain.NodeState{Unreachable: true} })
	_, err = nodes.Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name}, Spec: corev1.NodeSpec{ProviderID: "aws:///us-east-1a/i-bare"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	e.eventually(func() bool { return watched.Node().Replaced })
}
