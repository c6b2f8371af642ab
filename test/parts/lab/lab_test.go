package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	// waitTimeout is how long a test waits for what should take a second, on a machine that is busy with other packages.
	waitTimeout = 20 * time.Second
	tick        = 20 * time.Millisecond
	// stopDelay is that of the shared lab.
	stopDelay = 500 * time.Millisecond
)

// shared is the lab of all tests in this file. Each test has its own namespace.
var shared = sync.OnceValues(func() (*Lab, error) {
	l, err := Start(context.Background(), Options{StopDelay: stopDelay})
	if err != nil {
		return nil, err
	}
	stopShared = l.Stop
	return l, l.AddNodes(context.Background(),
		Node{Name: "ip-10-0-1-1.ec2.internal", InstanceID: "i-0a1", Zone: "us-east-1a"},
		Node{Name: "ip-10-0-1-2.ec2.internal", InstanceID: "i-0b2", Zone: "us-east-1b"},
	)
})

// stopShared stops the shared lab, if a test has started it.
var stopShared = func() error { return nil }

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		runChild()
	}
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

func startedLab(t *testing.T) *Lab {
	t.Helper()
	Require(t)
	l, err := shared()
	require.NoError(t, err)
	return l
}

func namespace(t *testing.T, l *Lab) string {
	t.Helper()
	created, err := l.Client().CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return created.Name
}

func podSpec(annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}
}

// deploy makes a Deployment with two replicas and waits until it is Ready.
func deploy(t *testing.T, l *Lab, namespace string) {
	t.Helper()
	replicas := int32(2)
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	deployments := l.Client().AppsV1().Deployments(namespace)
	_, err := deployments.Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: podSpec(nil)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		d, err := deployments.Get(t.Context(), "web", metav1.GetOptions{})
		return err == nil && d.Status.ReadyReplicas == replicas
	}, waitTimeout, tick)
}

// runningPod makes a bare pod and waits until it is Ready.
func runningPod(t *testing.T, l *Lab, name string, annotations map[string]string) string {
	t.Helper()
	ns, template := namespace(t, l), podSpec(annotations)
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name = name
	pods := l.Client().CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	}, waitTimeout, tick)
	return ns
}

// timeToStop deletes a pod with these options and returns the time until it is gone.
func timeToStop(t *testing.T, l *Lab, namespace, name string, o metav1.DeleteOptions) time.Duration {
	t.Helper()
	pods := l.Client().CoreV1().Pods(namespace)
	began := time.Now()
	require.NoError(t, pods.Delete(t.Context(), name, o))
	require.Eventually(t, func() bool {
		_, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, waitTimeout, tick)
	return time.Since(began)
}

func TestDeployment_Created_BecomesReady(t *testing.T) {
	l := startedLab(t)
	deploy(t, l, namespace(t, l))
}

func TestNode_Added_LooksLikeEKS(t *testing.T) {
	l := startedLab(t)
	node, err := l.Client().CoreV1().Nodes().Get(t.Context(), "ip-10-0-1-1.ec2.internal", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "aws:///us-east-1a/i-0a1", node.Spec.ProviderID)
	require.Equal(t, "us-east-1a", node.Labels[corev1.LabelTopologyZone])
	require.Equal(t, "us-east-1", node.Labels[corev1.LabelTopologyRegion])
}

func TestPod_Deleted_StopsAfterItsDelay(t *testing.T) {
	l := startedLab(t)
	for name, c := range map[string]struct {
		annotations map[string]string
		grace       *int64
		want        time.Duration
	}{
		"by-default":    {nil, nil, stopDelay},
		"by-annotation": {map[string]string{StopAfter: "1500ms"}, nil, 1500 * time.Millisecond},
		"until-killed":  {map[string]string{StopAfter: "60s"}, new(int64(1)), time.Second}, // timeToStop does not wait for 60 s
	} {
		t.Run(name, func(t *testing.T) {
			ns := runningPod(t, l, name, c.annotations)
			took := timeToStop(t, l, ns, name, metav1.DeleteOptions{GracePeriodSeconds: c.grace})
			require.GreaterOrEqual(t, took, c.want)
		})
	}
}

// A kubelet reports how the containers ended before the pod is gone.
func TestPod_TerminationMessage_IsInItsLastStatus(t *testing.T) {
	l := startedLab(t)
	ns := runningPod(t, l, "web", map[string]string{TerminationMessage: "SIGTERM"})
	pods := l.Client().CoreV1().Pods(ns)
	changes, err := pods.Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer changes.Stop()
	require.NoError(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	for change := range changes.ResultChan() {
		if change.Type == watch.Deleted {
			ended := change.Object.(*corev1.Pod).Status.ContainerStatuses[0].State.Terminated
			require.NotNil(t, ended)
			require.Equal(t, "SIGTERM", ended.Message)
			return
		}
	}
	require.Fail(t, "the watch ended early")
}

func TestPDB_NoDisruptions_EvictionRefused(t *testing.T) {
	l := startedLab(t)
	ns := namespace(t, l)
	deploy(t, l, ns)
	none := intstr.FromInt32(0)
	pdbs := l.Client().PolicyV1().PodDisruptionBudgets(ns)
	_, err := pdbs.Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &none, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		b, err := pdbs.Get(t.Context(), "web", metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration == b.Generation
	}, waitTimeout, tick)

	pods, err := l.Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	err = l.Client().CoreV1().Pods(ns).EvictV1(t.Context(),
		&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pods.Items[0].Name}})
	require.True(t, apierrors.IsTooManyRequests(err), "%v", err)
	require.True(t, apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), "%v", err)
}

func TestAuditLog_WatchRunsThenEnds_EachRequestOnce(t *testing.T) {
	l := startedLab(t)
	as := l.Admin()
	as.UserAgent = rand.Text() // other tests use the admin too
	client, err := kubernetes.NewForConfig(as)
	require.NoError(t, err)
	ctx := t.Context()

	watch, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	_, err = client.CoreV1().Pods("default").Get(ctx, "none", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
	_, err = client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	before := requestsOf(t, l, as.UserAgent)
	require.Zero(t, before[0].Done, "the watch still runs")

	watch.Stop()
	require.Eventually(t, func() bool { return !requestsOf(t, l, as.UserAgent)[0].Done.IsZero() }, waitTimeout, tick)
	after := requestsOf(t, l, as.UserAgent)
	for _, requests := range [][]Request{before, after} {
		require.Len(t, requests, 3)
		require.Equal(t, []string{"watch", "get", "list"}, []string{requests[0].Verb, requests[1].Verb, requests[2].Verb})
		require.Equal(t, http.StatusNotFound, requests[1].Code)
		require.Equal(t, "nodes", requests[2].Resource)
	}
}

func requestsOf(t *testing.T, l *Lab, agent string) (requests []Request) {
	t.Helper()
	all, err := l.Audit().By(adminUser.Name)
	require.NoError(t, err)
	for _, r := range all {
		if r.UserAgent == agent {
			requests = append(requests, r)
		}
	}
	return requests
}

func TestStopKubelet_PodDeleted_Stays(t *testing.T) {
	l := startedLab(t)
	node := Node{Name: "unreachable", InstanceID: "i-0c3", Zone: "us-east-1a"}
	require.NoError(t, l.AddNodes(t.Context(), node))
	ns := namespace(t, l)
	template := podSpec(nil)
	template.Spec.NodeName = node.Name
	pods := l.Client().CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: template.Spec,
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	require.NoError(t, l.StopKubelet(t.Context(), node.Name))
	require.NoError(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	require.Never(t, func() bool {
		_, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, 3*stopDelay, tick)
	require.NoError(t, l.RemoveNode(t.Context(), node.Name))
}

func TestCreate_SeveralObjects_AllExist(t *testing.T) {
	l := startedLab(t)
	manifest := t.TempDir() + "/objects.yaml"
	require.NoError(t, os.WriteFile(manifest, []byte(`# comments only
---
apiVersion: v1
kind: Namespace
metadata: {name: created}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: inside, namespace: created}}
`), 0o600))
	require.NoError(t, l.Create(t.Context(), manifest))
	_, err := l.Client().CoreV1().ConfigMaps("created").Get(t.Context(), "inside", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, apierrors.IsAlreadyExists(l.Create(t.Context(), manifest)))
}

func TestApply_Manifest_ObjectExists(t *testing.T) {
	l := startedLab(t)
	manifest := t.TempDir() + "/namespace.yaml"
	require.NoError(t, os.WriteFile(manifest,
		[]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"applied"}}`), 0o600))
	require.NoError(t, l.Apply(t.Context(), manifest))
	names, err := l.Kubectl(t.Context(), "get", "namespace", "applied", "-o", "name")
	require.NoError(t, err)
	require.Equal(t, "namespace/applied\n", names)
}

// Tests that run in parallel apply objects without a namespace that are the same in each: an admission policy, for example.
func TestApply_SameObjectsAtOnce_NoneFails(t *testing.T) {
	l := startedLab(t)
	var objects strings.Builder
	for i := range 20 {
		fmt.Fprintf(&objects, "---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: at-once-%d}}\n", i)
	}
	manifest := t.TempDir() + "/roles.yaml"
	require.NoError(t, os.WriteFile(manifest, []byte(objects.String()), 0o600))
	failures := make([]error, 4)
	var group sync.WaitGroup
	for i := range failures {
		group.Go(func() { failures[i] = l.Apply(t.Context(), manifest) })
	}
	group.Wait()
	require.NoError(t, errors.Join(failures...))
}
