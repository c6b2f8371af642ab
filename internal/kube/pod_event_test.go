package kube

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

func (e *labEnv) podNamedWeb() *corev1.Pod {
	e.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.PodSpec{NodeName: "node-c", Containers: []corev1.Container{{Name: "main", Image: "web"}}},
	}
	created, err := e.Client().CoreV1().Pods(e.namespace).Create(e.Context(), pod, metav1.CreateOptions{})
	require.NoError(e, err)
	return created
}

// Its owner sees it with the pod, and once, whatever number of invocations creates it.
func TestRecordPodEvent_TwoInvocations_OneEventOfThePod(t *testing.T) {
	e := newLabEnv(t)
	pod := e.podNamedWeb()
	event := drain.PodEvent{Pod: refOf(pod), Reason: drain.EvictionBlocked, Message: "no room", Began: time.Now()}
	for range 2 {
		e.eventually(func() bool { return e.client.RecordPodEvent(t.Context(), event) == nil }) // the policies allow it
	}
	event.Message = "less room" // the numbers of a PDB change
	require.NoError(t, e.client.RecordPodEvent(t.Context(), event))
	all, err := e.Client().CoreV1().Events(e.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=EvictionBlocked"})
	require.NoError(t, err)
	require.Len(t, all.Items, 1)
	got := all.Items[0]
	require.Equal(t, corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: e.namespace, Name: "web", UID: pod.UID}, got.InvolvedObject)
	require.Equal(t, "Warning quiesce no room", strings.Join([]string{got.Type, got.Source.Component, got.Message}, " "))
	text, err := e.Kubectl(t.Context(), "describe", "pod", "web", "--namespace="+e.namespace)
	require.NoError(t, err)
	require.Regexp(t, `Warning +EvictionBlocked +\S+ +quiesce +no room`, text)

	event.Began = event.Began.Add(time.Hour) // another termination
	require.NoError(t, e.client.RecordPodEvent(t.Context(), event))
	event.Reason = drain.EvictionHeld
	require.NoError(t, e.client.RecordPodEvent(t.Context(), event))
	all, err = e.Client().CoreV1().Events(e.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID) + ",source=quiesce"})
	require.NoError(t, err)
	require.Len(t, all.Items, 3)
}

// The role is optional. The error says what is missing, and that it is only about events.
func TestRecordPodEvent_RoleRemoved_Forbidden(t *testing.T) {
	e := newLabEnv(t)
	group := e.namespace + "-others"
	e.grantAllBut(permission{}, group)
	client := clientInGroup(t, e.Lab, group)
	err := client.RecordPodEvent(t.Context(), drain.PodEvent{Pod: refOf(e.podNamedWeb()), Reason: drain.EvictionHeld})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "create event EvictionHeld for pod "+e.namespace+"/web")
}

// An operator may tell the owners of some namespaces only.
func TestRecordPodEvent_RoleBoundInOneNamespace_Enough(t *testing.T) {
	e := newLabEnv(t)
	group := e.namespace + "-bound"
	_, err := e.Client().RbacV1().RoleBindings(e.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "quiesce-pod-events"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "quiesce-pod-events"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	client, event := clientInGroup(t, e.Lab, group), drain.PodEvent{Pod: refOf(e.podNamedWeb()), Reason: drain.EvictionHeld}
	e.eventually(func() bool { return client.RecordPodEvent(t.Context(), event) == nil })
	event.Pod.Namespace = "default"
	require.True(t, apierrors.IsForbidden(client.RecordPodEvent(t.Context(), event)))
}

// An event is an object like others: its name must be valid, however long its pod's is.
func TestPodEventName_AnyPod_ValidAndItsOwn(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	seen := map[string]drain.PodEvent{}
	for _, name := range []string{"web", strings.Repeat("a", 253), strings.Repeat("a", 235) + "-" + strings.Repeat("b", 17), strings.Repeat("a.", 126) + "a"} {
		for _, reason := range []drain.PodEventReason{drain.EvictionBlocked, drain.EvictionHeld} {
			for n := range 2 {
				e := drain.PodEvent{Pod: refNamed("app", name, fmt.Sprint("uid-", n)), Reason: reason, Began: time.Unix(1, 0)}
				got := podEventName(e)
				require.Regexp(t, valid, got)
				require.LessOrEqual(t, len(got), 253)
				require.NotContains(t, seen, got)
				seen[got] = e
				e.Message = "another"
				require.Equal(t, got, podEventName(e))
				e.Began = e.Began.Add(time.Second)
				require.NotEqual(t, got, podEventName(e))
			}
		}
	}
}
