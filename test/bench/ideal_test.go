package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// evictors is how many eviction requests the ideal client has in flight: as many as the function by default.
const evictors = 16

// ideal does only what every drain must do: one list, one watch, one eviction per pod. It ignores PDBs, order and errors, and
// knows beforehand which pods to evict.
func (a *fixture) ideal() time.Duration {
	client := a.Lab.Client()
	began := time.Now()
	a.setUnschedulable(a.target, true)
	onNode := metav1.ListOptions{FieldSelector: "spec.nodeName=" + a.target.Node}
	pods, err := client.CoreV1().Pods("").List(a.ctx, onNode)
	require.NoError(a, err)
	onNode.ResourceVersion = pods.ResourceVersion
	watching, err := client.CoreV1().Pods("").Watch(a.ctx, onNode)
	require.NoError(a, err)
	go evictAll(a.ctx, a, client, pods.Items, evictors)
	for remaining := len(pods.Items); remaining > 0; {
		event, open := <-watching.ResultChan()
		if !open { // a busy server may end a watch at any time; the next one goes on where it ended
			watching, err = client.CoreV1().Pods("").Watch(a.ctx, onNode)
			require.NoError(a, err)
			continue
		}
		if pod, is := event.Object.(*corev1.Pod); is {
			onNode.ResourceVersion = pod.ResourceVersion
		}
		if event.Type == watch.Deleted {
			remaining--
		}
	}
	watching.Stop()
	return time.Since(began)
}

// evictAll requests the eviction of each pod once, with this many requests in flight.
func evictAll(ctx context.Context, tb testing.TB, client kubernetes.Interface, pods []corev1.Pod, parallel int) {
	slots := make(chan struct{}, parallel)
	for _, pod := range pods {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			err := client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			})
			if err != nil {
				tb.Error(err)
			}
		}()
	}
}
