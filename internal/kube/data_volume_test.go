package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestNodeVolume_OnlyWhereTheDataDirectoryIs(t *testing.T) {
	empty := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	host := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt/nvme"}}
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "pg-0"}}
	type mounts map[string]string // volumes, by path
	for name, c := range map[string]struct {
		env, dir string
		mounts   mounts
		want     string
	}{
		"emptyDir":                      {"PGDATA", "/var/lib/postgresql/data/pgdata", mounts{"/var/lib/postgresql/data": "empty", "/backup": "claim"}, "empty"},
		"hostPath":                      {"PATRONI_POSTGRESQL_DATA_DIR", "/data", mounts{"/data/": "host"}, "host"},
		"Spilo":                         {"PGROOT", "/home/postgres/pgdata/pgroot", mounts{"/home/postgres/pgdata": "empty"}, "empty"},
		"claim, beside harmless ones":   {"PGDATA", "/var/lib/postgresql/data/pgdata", mounts{"/var/lib/postgresql/data": "claim", "/run": "empty", "/dev/shm": "empty"}, ""},
		"claim, within an emptyDir":     {"PGDATA", "/var/lib/postgresql/data", mounts{"/var/lib": "empty", "/var/lib/postgresql": "claim"}, ""},
		"another directory's beginning": {"PGDATA", "/data-of-pg", mounts{"/data": "empty"}, ""},
		"of another variable":           {"TMPDIR", "/data", mounts{"/data": "empty"}, ""},
		"not an absolute path":          {"PGDATA", "", mounts{"/": "empty"}, ""},
		"nothing mounted":               {"PGDATA", "/data", nil, ""},
	} {
		p := &corev1.Pod{}
		p.Spec.Volumes = []corev1.Volume{{Name: "empty", VolumeSource: empty}, {Name: "host", VolumeSource: host}, {Name: "claim", VolumeSource: claim}}
		container := corev1.Container{Env: []corev1.EnvVar{{Name: c.env, Value: c.dir}}}
		for path, volume := range c.mounts {
			container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path})
		}
		p.Spec.Containers = []corev1.Container{{Name: "sidecar"}, container}
		require.Equal(t, c.want, ToEscortPod(p).NodeVolume, name)
	}
}
