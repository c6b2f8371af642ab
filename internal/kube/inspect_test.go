package kube

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const poolerManifest = `
apiVersion: v1
kind: Pod
metadata:
  name: pooler
  labels: {app: pgbouncer}
  annotations: {quiesce/escort: pgbouncer, lab/stop-after: 60s}
spec:
  nodeName: node-a
  terminationGracePeriodSeconds: 45
  initContainers:
    - {name: migrate, image: migrate}
    - name: metrics
      image: exporter
      restartPolicy: Always
      livenessProbe: {exec: {command: [alive]}, periodSeconds: 2, failureThreshold: 5}
  containers:
    - name: pgbouncer
      image: pgbouncer:1.24
      ports: [{name: psql, containerPort: 6432}, {containerPort: 9127}]
      lifecycle: {preStop: {exec: {command: [sh, -c, sleep 5]}}}
      livenessProbe: {tcpSocket: {port: psql}}
    - name: tls
      image: stunnel
      lifecycle: {preStop: {sleep: {seconds: 5}}}
      livenessProbe: {httpGet: {port: 8080}, periodSeconds: 3, failureThreshold: 2}
    - name: agent
      image: agent
      lifecycle: {preStop: {httpGet: {path: /stop, port: 8081}}}
      livenessProbe: {grpc: {port: 8082}, periodSeconds: 1, failureThreshold: 1}
`

func TestInspect_Pod_HasAllFields(t *testing.T) {
	e := newLabEnv(t)
	e.apply(poolerManifest)
	ref := refOf(&e.awaitReady("app=pgbouncer", 1)[0])
	pod := e.inspect(e.pod("pooler"))
	require.NotEmpty(t, pod.IP)
	pod.IP = ""
	delete(pod.Annotations, "kubectl.kubernetes.io/last-applied-configuration")
	maps.DeleteFunc(pod.Labels, func(key, _ string) bool { return strings.HasPrefix(key, "topology.kubernetes.io/") }) // copied from the node
	require.Equal(t, escort.Pod{
		Pod: drain.Pod{
			Ref: ref, Grace: 45 * time.Second, Created: pod.Created,
			Labels:      map[string]string{"app": "pgbouncer"},
			Annotations: map[string]string{"quiesce/escort": "pgbouncer"},
		},
		Node: "node-a", Ready: true,
		Containers: []escort.Container{
			{
				Name: "pgbouncer", Image: "pgbouncer:1.24", Ports: []escort.Port{{Name: "psql", Number: 6432}, {Name: "", Number: 9127}},
				PreStop:  []string{"sh", "-c", "sleep 5"},
				Liveness: escort.LivenessProbe{Port: 6432, Window: 30 * time.Second}, // the default: 3 times 10 s
			},
			{
				Name: "tls", Image: "stunnel", PreStop: []string{"sleep", "5"},
				Liveness: escort.LivenessProbe{Port: 8080, Window: 6 * time.Second},
			},
			{
				Name: "agent", Image: "agent", PreStop: []string{"httpGet", "/stop"},
				Liveness: escort.LivenessProbe{Port: 8082, Window: time.Second},
			},
			{Name: "metrics", Image: "exporter", Liveness: escort.LivenessProbe{Command: []string{"alive"}, Window: 10 * time.Second}},
		},
	}, pod)
}

// The deletion timestamp of a terminating pod is the end of its grace period.
func TestInspect_TerminatingPod_DeletedIsRequestTime(t *testing.T) {
	e := newLabEnv(t)
	e.apply(poolerManifest)
	e.awaitReady("app=pgbouncer", 1)
	before := time.Now().Truncate(time.Second)
	require.NoError(t, e.Client().CoreV1().Pods(e.namespace).Delete(t.Context(), "pooler", metav1.DeleteOptions{}))
	pod := e.inspect(e.pod("pooler"))
	require.False(t, pod.Deleted.Before(before), "%v", pod.Deleted)
	require.False(t, pod.Deleted.After(time.Now()), "%v", pod.Deleted)
}

func TestInspect_PodGoneOrOtherUID_ReturnsNil(t *testing.T) {
	e := newLabEnv(t)
	e.apply(poolerManifest)
	another := drain.Ref{Namespace: e.namespace, Name: "pooler", UID: "another"}
	gone := drain.Ref{Namespace: e.namespace, Name: "gone", UID: "1"}
	for _, ref := range []drain.Ref{another, gone} {
		pod, err := e.client.Inspect(t.Context(), ref)
		require.NoError(t, err)
		require.Nil(t, pod)
	}
}

func TestOwnerOf_ForeignKind_HasAPIGroup(t *testing.T) {
	for apiVersion, kind := range map[string]string{
		"apps/v1": "StatefulSet", "v1": "StatefulSet.core", "apps.kruise.io/v1beta1": "StatefulSet.apps.kruise.io",
	} {
		pod, controls := podNamed("db-0", "1"), true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: "StatefulSet", Name: "db", UID: "2", Controller: &controls}}
		require.Equal(t, escort.Owner{Kind: kind, Name: "db", UID: "2"}, ownerOf(pod))
	}
	require.Zero(t, ownerOf(podNamed("bare", "1")))
}

func TestPatchLabels_SetAndRemoved_OthersStay(t *testing.T) {
	e := newLabEnv(t)
	e.apply(poolerManifest)
	value, app := "surge", "pgbouncer"
	require.NoError(t, e.client.PatchLabels(t.Context(), refOf(e.pod("pooler")), map[string]*string{drain.EscortLabel: &value, "app": nil}))
	pod := e.pod("pooler")
	require.Equal(t, "surge", pod.Labels[drain.EscortLabel])
	require.NotContains(t, pod.Labels, "app")
	require.Contains(t, pod.Annotations, "lab/stop-after")

	require.NoError(t, e.client.PatchLabels(t.Context(), refOf(pod), map[string]*string{drain.EscortLabel: nil, "app": &app}))
	require.NotContains(t, e.pod("pooler").Labels, drain.EscortLabel)
	require.Equal(t, app, e.pod("pooler").Labels["app"])
	require.NoError(t, e.client.PatchLabels(t.Context(), refOf(pod), nil))
	require.Equal(t, app, e.pod("pooler").Labels["app"])
}

func TestPatchLabels_OtherUID_ChangesNothing(t *testing.T) {
	e := newLabEnv(t)
	e.apply(poolerManifest)
	another := drain.Ref{Namespace: e.namespace, Name: "pooler", UID: "another"}
	value := "surge"
	err := e.client.PatchLabels(t.Context(), another, map[string]*string{drain.EscortLabel: &value})
	require.ErrorContains(t, err, "patch pod "+another.String())
	require.NotContains(t, e.pod("pooler").Labels, drain.EscortLabel)
}

func TestProcessOf_Statuses_OnlyARunningOne(t *testing.T) {
	status := func(name, id string, running bool) corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: name, ContainerID: id}
		if running {
			s.State.Running = &corev1.ContainerStateRunning{}
		}
		return s
	}
	for _, c := range []struct {
		want     string
		statuses []corev1.ContainerStatus
	}{
		{"containerd://b", []corev1.ContainerStatus{status("metrics", "containerd://a", true), status("pgbouncer", "containerd://b", true)}},
		{"", []corev1.ContainerStatus{status("metrics", "containerd://a", true)}},
		{"", []corev1.ContainerStatus{status("pgbouncer", "containerd://b", false)}},
		{"", []corev1.ContainerStatus{status("pgbouncer", strings.Repeat("b", maxProcess+1), true)}},
		{"", nil},
	} {
		require.Equal(t, c.want, processOf("pgbouncer", c.statuses))
	}
}
