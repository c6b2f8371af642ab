package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

func podNamed(name string, uid types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, UID: uid}}
}

func createdAfterCordon(pods []drain.Pod) (names []string) {
	for _, p := range pods {
		if p.CreatedAfterCordon {
			names = append(names, p.UID)
		}
	}
	return names
}

func TestObserve_PodNotInFirstList_CreatedAfterCordon(t *testing.T) {
	c := &watchedNode{changed: make(chan struct{}, 1), pdbs: pdbsWith()}
	c.replace([]*corev1.Pod{podNamed("web", "1"), podNamed("db-0", "2")})
	require.Empty(t, createdAfterCordon(c.Pods()))

	c.put(podNamed("web", "1")) // changed
	c.drop(podNamed("db-0", "2"))
	c.put(podNamed("db-0", "3"))
	require.Equal(t, []string{"3"}, createdAfterCordon(c.Pods()), "a new UID is another pod")

	c.replace([]*corev1.Pod{podNamed("web", "1"), podNamed("db-0", "3"), podNamed("new", "4")}) // the watch broke
	require.ElementsMatch(t, []string{"3", "4"}, createdAfterCordon(c.Pods()))
}
