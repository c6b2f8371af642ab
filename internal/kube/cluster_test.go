package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

func found(name string, uid types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, UID: uid}}
}

func late(pods []drain.Pod) (names []string) {
	for _, p := range pods {
		if p.CreatedAfterCordon {
			names = append(names, p.UID)
		}
	}
	return names
}

func TestAPodThatTheFirstListDidNotHaveIsLate(t *testing.T) {
	c := &cluster{changed: make(chan struct{}, 1), budgets: watched()}
	c.replace([]*corev1.Pod{found("web", "1"), found("db-0", "2")})
	require.Empty(t, late(c.Pods()))

	c.put(found("web", "1")) // which changed
	c.drop(found("db-0", "2"))
	c.put(found("db-0", "3"))
	require.Equal(t, []string{"3"}, late(c.Pods()), "another pod of a known name is another pod")

	c.replace([]*corev1.Pod{found("web", "1"), found("db-0", "3"), found("new", "4")}) // the watch broke
	require.ElementsMatch(t, []string{"3", "4"}, late(c.Pods()))
}
