package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

func webPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": webApp}},
		Spec:       corev1.PodSpec{NodeName: "old"},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func stopping(p *corev1.Pod) {
	now := metav1.Now()
	p.DeletionTimestamp = &now
}

func elsewhere(p *corev1.Pod) { p.Spec.NodeName = "new" }

func ended(message string, code int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: message, ExitCode: code}},
		}}
	}
}

func TestPodWatch_OneAfterAnother_OneIsReadyAtAnyTime(t *testing.T) {
	w := newPodWatch()
	require.Equal(t, -1, w.fewestReady())
	w.note(webPod("a"), false)
	require.Equal(t, -1, w.fewestReady(), "not all are ready yet")
	w.note(webPod("b"), false)
	w.note(webPod("a", stopping), false)
	w.note(webPod("c", elsewhere), false)
	w.note(webPod("b", stopping), false)
	require.Equal(t, 1, w.fewestReady())

	w.note(webPod("c", elsewhere, stopping), false)
	require.Zero(t, w.fewestReady(), "the PDB was not respected")
}

func TestPodWatch_Records_OutliveThePods(t *testing.T) {
	w := newPodWatch()
	w.note(webPod("a", stopping, ended("SIGTERM 08:15:30\n", 0)), false)
	w.note(webPod("a", stopping, ended("SIGTERM 08:15:30\n", 0)), true)
	w.note(webPod("b", stopping, ended("SIGTERM 08:15:30\n", 137)), true)
	w.note(cache.DeletedFinalStateUnknown{Obj: webPod("c")}, true)
	w.note(webPod("d", elsewhere), false)
	records := w.on("old")
	require.Len(t, records, 3)
	require.True(t, records[0].wasSignaled())
	require.False(t, records[1].wasSignaled(), "it was killed")
	require.False(t, records[2].wasSignaled(), "it was not told")
	for _, r := range records {
		require.False(t, r.Gone.IsZero())
	}
}
