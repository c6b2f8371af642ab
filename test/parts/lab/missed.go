package lab

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// missedAnnotation on a pod is when kwok was last told about it again.
	missedAnnotation = "lab/repeated-at"
	// missedAfter is how long a pod with a node may be pending before kwok is told again. kwok needs milliseconds, or a second on a busy
	// machine.
	missedAfter = 5 * time.Second
	// missedInterval is between two looks. Each costs the API server one list from its cache.
	missedInterval = 2 * time.Second
)

// repeatMissed tells kwok again about pods that it has missed, until ctx ends. kwok drops a pod whose node's Lease it has not seen yet, and
// never looks again. It sees Leases late when its watch of them begins anew after an outage. A kubelet lists its pods. Only metadata is read:
// tests measure the memory of this process.
func (l *Lab) repeatMissed(ctx context.Context) {
	tick := time.NewTicker(missedInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pods, err := l.podsWithoutAddress(ctx, "0")
		if err != nil {
			continue // such as during an outage
		}
		for _, p := range pods {
			if isMissed(&p, time.Now()) {
				mark := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, missedAnnotation, time.Now().Format(time.RFC3339))
				_, _ = l.metadata.Resource(podResource).Namespace(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, mark, metav1.PatchOptions{})
			}
		}
	}
}

var podResource = corev1.SchemeGroupVersion.WithResource("pods")

// podsWithoutAddress returns pods that have a node, and were not started.
func (l *Lab) podsWithoutAddress(ctx context.Context, version string) ([]metav1.PartialObjectMetadata, error) {
	found, err := l.metadata.Resource(podResource).List(ctx, metav1.ListOptions{
		FieldSelector: "status.phase=Pending,status.podIP=,spec.nodeName!=", ResourceVersion: version,
	})
	if err != nil {
		return nil, err
	}
	return found.Items, nil
}

// isMissed reports whether kwok should have started the pod by now. A pod that is told to become ready later begins to wait again with
// each change.
func isMissed(p *metav1.PartialObjectMetadata, now time.Time) bool {
	since := p.CreationTimestamp.Time
	if last, err := time.Parse(time.RFC3339, p.Annotations[missedAnnotation]); err == nil {
		since = last
	}
	delay, _ := time.ParseDuration(p.Annotations[ReadyAfter]) // zero without one
	_, stopped := p.Annotations[kubeletAnnotation]
	return !stopped && p.DeletionTimestamp == nil && now.Sub(since) > delay+missedAfter
}
