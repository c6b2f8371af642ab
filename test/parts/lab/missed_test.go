package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestIsMissed_PendingForLong_IsRepeated(t *testing.T) {
	now := time.Now()
	old := now.Add(-time.Minute)
	for name, c := range map[string]struct {
		created time.Time
		change  func(*corev1.Pod)
		want    bool
	}{
		"pending for long":           {old, func(*corev1.Pod) {}, true},
		"new":                        {now, func(*corev1.Pod) {}, false},
		"started":                    {old, func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.1" }, false},
		"to be ready later":          {old, annotation(ReadyAfter, "2m"), false},
		"should be ready":            {old, annotation(ReadyAfter, "30s"), true},
		"repeated just now":          {old, annotation(missedAnnotation, now.Format(time.RFC3339)), false},
		"repeated long ago":          {old, annotation(missedAnnotation, now.Add(-10*time.Second).Format(time.RFC3339)), true},
		"on a node without kubelet":  {old, annotation(kubeletAnnotation, "stopped"), false},
		"told to stop before it ran": {old, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, false},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(c.created)}}
		c.change(p)
		require.Equal(t, c.want, isMissed(p, now), name)
	}
}

func annotation(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{key: value} }
}
