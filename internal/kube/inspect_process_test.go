package kube

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestProcessOf_Statuses_OnlyARunningOne(t *testing.T) {
	status := func(name, id string, running bool) corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: name, ContainerID: id}
		if running {
			s.State.Running = &corev1.ContainerStateRunning{}
		}
		return s
	}
	for _, c := range []struct {
		want     string
		statuses []corev1.ContainerStatus
	}{
		{"containerd://b", []corev1.ContainerStatus{status("metrics", "containerd://a", true), status("pgbouncer", "containerd://b", true)}},
		{"", []corev1.ContainerStatus{status("metrics", "containerd://a", true)}},
		{"", []corev1.ContainerStatus{status("pgbouncer", "containerd://b", false)}},
		{"", []corev1.ContainerStatus{status("pgbouncer", strings.Repeat("b", maxProcess+1), true)}},
		{"", nil},
	} {
		require.Equal(t, c.want, processOf("pgbouncer", c.statuses))
	}
}
