package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestIsMissed_PendingForLong_IsRepeated(t *testing.T) {
	now := time.Now()
	old := now.Add(-time.Minute)
	for name, c := range map[string]struct {
		created time.Time
		change  func(*metav1.PartialObjectMetadata)
		want    bool
	}{
		"pending for long":           {old, func(*metav1.PartialObjectMetadata) {}, true},
		"new":                        {now, func(*metav1.PartialObjectMetadata) {}, false},
		"to be ready later":          {old, annotation(ReadyAfter, "2m"), false},
		"should be ready":            {old, annotation(ReadyAfter, "30s"), true},
		"repeated just now":          {old, annotation(missedAnnotation, now.Format(time.RFC3339)), false},
		"repeated long ago":          {old, annotation(missedAnnotation, now.Add(-10*time.Second).Format(time.RFC3339)), true},
		"on a node without kubelet":  {old, annotation(kubeletAnnotation, "stopped"), false},
		"told to stop before it ran": {old, func(p *metav1.PartialObjectMetadata) { p.DeletionTimestamp = &metav1.Time{Time: now} }, false},
	} {
		p := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(c.created)}}
		c.change(p)
		require.Equal(t, c.want, isMissed(p, now), name)
	}
}

func annotation(key, value string) func(*metav1.PartialObjectMetadata) {
	return func(p *metav1.PartialObjectMetadata) { p.Annotations = map[string]string{key: value} }
}
