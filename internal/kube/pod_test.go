package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// terminatingPod returns a pod whose deletion was requested. A grace of zero means that its kubelet has released it.
func terminatingPod(grace int64, finalizers ...string) *corev1.Pod {
	pod := podNamed("web", "1")
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds, pod.Finalizers = &metav1.Time{Time: time.Now()}, &grace, finalizers
	return pod
}

func withPhase(phase corev1.PodPhase, pod *corev1.Pod, containers ...corev1.ContainerState) *corev1.Pod {
	pod.Status.Phase = phase
	for _, state := range containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{State: state})
	}
	return pod
}

// A pod that a kubelet has stopped still exists for about a second. If it counted as finished, the report would say that it
// remained.
func TestFinished_KubeletStillWorks_False(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	for name, c := range map[string]struct {
		pod            *corev1.Pod
		finished, kept bool
	}{
		"runs":                                 {pod: withPhase(corev1.PodRunning, podNamed("web", "1"), running)},
		"has succeeded":                        {pod: withPhase(corev1.PodSucceeded, podNamed("web", "1")), finished: true},
		"has failed":                           {pod: withPhase(corev1.PodFailed, podNamed("web", "1")), finished: true},
		"restarts its container":               {pod: withPhase(corev1.PodRunning, podNamed("web", "1"), ended)},
		"terminates":                           {pod: withPhase(corev1.PodRunning, terminatingPod(30), running)},
		"has stopped":                          {pod: withPhase(corev1.PodFailed, terminatingPod(30), ended)},
		"has stopped, and is about to be gone": {pod: withPhase(corev1.PodFailed, terminatingPod(0), ended)},
		"has stopped, and has a finalizer":     {pod: withPhase(corev1.PodFailed, terminatingPod(30, "a/b"), ended)},
		"only the finalizer keeps it":          {pod: withPhase(corev1.PodSucceeded, terminatingPod(0, "a/b"), ended), kept: true},
		"only the finalizer keeps it, older kubelet": {pod: withPhase(corev1.PodRunning, terminatingPod(0, "a/b"), ended, ended), kept: true},
		"is force-deleted, and has a finalizer":      {pod: withPhase(corev1.PodRunning, terminatingPod(0, "a/b"), ended, running)},
		"never started":                              {pod: withPhase(corev1.PodPending, terminatingPod(0, "a/b"))},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.finished, finished(c.pod))
			require.Equal(t, c.kept, keptByFinalizers(c.pod))
		})
	}
}

func TestContainersEndedAt_FinalizersKeepPod_FirstSeen(t *testing.T) {
	early := withPhase(corev1.PodFailed, terminatingPod(0, "a/b"))
	early.Name, early.DeletionTimestamp = "early", &metav1.Time{Time: time.Now().Add(-time.Hour)}
	web := podNamed("web", "1")
	c := newWatchedNode(early, web)
	began := time.Now()
	c.put(withPhase(corev1.PodFailed, terminatingPod(30, "a/b")))
	c.put(withPhase(corev1.PodFailed, terminatingPod(0, "a/b")))
	since := containersEndedAt(c, "web")
	require.WithinRange(t, since, began, time.Now())
	require.WithinDuration(t, began.Add(-time.Hour), containersEndedAt(c, "early"), time.Minute, "it may be as old as the deletion")
	c.put(withPhase(corev1.PodFailed, terminatingPod(0, "a/b")))
	require.Equal(t, since, containersEndedAt(c, "web"), "not the time of a later change")

	successor := podNamed("web", "2")
	c.put(successor)
	require.Zero(t, containersEndedAt(c, "web"))
}

func containersEndedAt(c *watchedNode, name string) time.Time {
	return c.current.pods[key(podNamed(name, ""))].ContainersEndedAt
}

func TestPods_KnownPDBsSelectPod_SetsPDBs(t *testing.T) {
	pod := podNamed("web", "1")
	pod.Labels = map[string]string{"app": "web"}
	c := newWatchedNode(pod)
	require.Empty(t, c.Pods()[0].PDBs, "no PDB is known")
	c.pdbs.put(newPDB("b", 0, 1, 1))
	c.pdbs.put(newPDB("a", 0, 1, 1))
	require.Equal(t, []string{"app/a", "app/b"}, c.Pods()[0].PDBs)
}
