package kube

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
)

// servePods returns a client of an API server that has this pod so many times.
func servePods(t *testing.T, pod *corev1.Pod, times int) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeList(w, pod, times, func() {}) }))
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	return client
}

// hugePod is what a tenant can make of a pod: the API server bounds neither the name of an image, nor the path of a hook, nor how many
// containers there are. Four hundred of them filled the function's memory, and all pods of the node lost their escorts.
func hugePod() *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web", UID: "1", Labels: map[string]string{"cluster-name": "x"}}}
	huge := strings.Repeat("x", 500_000)
	for range 2 * maxContainers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "small"})
	}
	hook := &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: huge}}}
	pod.Spec.Containers[0] = corev1.Container{Name: "large", Image: huge, Lifecycle: hook}
	return pod
}

func TestPods_Huge_BoundedAndCut(t *testing.T) {
	lists := map[string]func(*Client) (int, error){
		"by label": func(c *Client) (int, error) {
			pods, err := c.PodsByLabel(t.Context(), "app", map[string]string{"cluster-name": "x"})
			return len(pods), err
		},
		"matching": func(c *Client) (int, error) {
			pods, err := c.PodsMatching(t.Context(), "app", func(drain.Pod) bool { return true })
			return len(pods), err
		},
	}
	for name, list := range lists {
		found, err := list(servePods(t, hugePod(), 10))
		require.NoError(t, err, name)
		require.Equal(t, 10, found, name)
		_, err = list(servePods(t, hugePod(), 2*maxListedBytes>>20))
		require.ErrorIs(t, err, errTooManyPods, name)
	}
	pod := ToEscortPod(hugePod())
	require.Len(t, pod.Containers, maxContainers)
	require.Len(t, pod.Containers[0].Image, maxImage)
	require.LessOrEqual(t, len(strings.Join(pod.Containers[0].PreStop, "")), maxCommand)
}
