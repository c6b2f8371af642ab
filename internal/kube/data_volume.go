package kube

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// dataVariables are environment variables that have PostgreSQL's data directory, or one above it: of PostgreSQL's images, Patroni and Spilo
// (https://github.com/docker-library/docs/blob/master/postgres/README.md#pgdata,
// https://patroni.readthedocs.io/en/latest/ENVIRONMENT.html#postgresql, https://github.com/zalando/spilo/blob/master/ENVIRONMENT.rst).
var dataVariables = []string{"PGDATA", "PATRONI_POSTGRESQL_DATA_DIR", "PGROOT"}

// nodeVolume returns the name of the volume of kind emptyDir or hostPath that PostgreSQL's data directory is in; empty: none is known. Nearly
// every pod has such volumes for other files, so only those count that a container's environment names.
func nodeVolume(p *corev1.Pod) string {
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		for _, v := range c.Env {
			if !slices.Contains(dataVariables, v.Name) || !path.IsAbs(v.Value) {
				continue
			}
			name := volumeAt(c.VolumeMounts, v.Value)
			isIt := func(v corev1.Volume) bool { return v.Name == name && (v.EmptyDir != nil || v.HostPath != nil) }
			if isName(name) && slices.ContainsFunc(p.Spec.Volumes, isIt) {
				return strings.Clone(name)
			}
		}
	}
	return ""
}

// volumeAt returns the name of the volume that a directory is in: the one with the longest path; empty: none.
func volumeAt(mounts []corev1.VolumeMount, dir string) (name string) {
	longest := ""
	for _, m := range mounts {
		at := path.Clean(m.MountPath)
		if strings.HasPrefix(path.Clean(dir)+"/", strings.TrimSuffix(at, "/")+"/") && len(at) > len(longest) {
			longest, name = at, m.Name
		}
	}
	return name
}
