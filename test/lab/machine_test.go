package lab

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMachinesRunContainers(t *testing.T) {
	RequireMachines(t)
	began := time.Now()
	l, err := Start(t.Context(), Options{Machines: true, LogDir: os.Getenv("LABLOGS")})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Stop()) }()
	t.Logf("control plane after %s", time.Since(began))
	require.NoError(t, l.AddNodes(t.Context(),
		Node{Name: "ip-10-0-0-1.us-east-1.compute.internal", InstanceID: "i-01", Zone: "us-east-1a"},
		Node{Name: "ip-10-0-0-2.us-east-1.compute.internal", InstanceID: "i-02", Zone: "us-east-1b"},
		Node{Name: "ip-10-0-0-3.us-east-1.compute.internal", InstanceID: "i-03", Zone: "us-east-1a"},
	))
	t.Logf("machines after %s", time.Since(began))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "localhost/pause:lab", ImagePullPolicy: corev1.PullNever}}},
	}
	_, err = l.Client().CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p, err := l.Client().CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	}, patience, tick)
	t.Logf("pod after %s", time.Since(began))
	out, err := l.Kubectl(t.Context(), "get", "pods,nodes", "-o", "wide")
	t.Log(out, err)
	if os.Getenv("HOLD") != "" {
		time.Sleep(5 * time.Minute)
	}
}
