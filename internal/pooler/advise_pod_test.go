package pooler

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

func TestImageVersion_Tag_NamesAVersionOrNone(t *testing.T) {
	v := func(minor, patch int) *pgbouncer.Version {
		return &pgbouncer.Version{Major: 1, Minor: minor, Patch: patch}
	}
	for image, want := range map[string]*pgbouncer.Version{
		"edoburu/pgbouncer:v1.24.1-p1":                                  v(24, 1),
		"registry.example:5000/icoretech/pgbouncer-docker:1.18.0":       v(18, 0),
		"bitnami/pgbouncer:1.23.1-debian-12-r0":                         v(23, 1),
		"registry.example/crunchydata/crunchy-pgbouncer:ubi9-1.24-2534": v(24, 0),
		"ghcr.io/cloudnative-pg/pgbouncer:1.24.1@sha256:0123":           v(24, 1),
		"registry.example/acid/pgbouncer:master-32":                     nil,
		"edoburu/pgbouncer":                                             nil,
		"edoburu/pgbouncer:latest":                                      nil,
		"edoburu/pgbouncer@sha256:1.24.1":                               nil,
		"registry.example/other:1.24.1":                                 nil,
		"pgbouncer:17.2":                                                nil,
	} {
		pod := escort.Pod{Containers: []escort.Container{{Name: "pgbouncer", Image: image}}}
		require.Equal(t, want, ImageVersion(pod), image)
	}
}

func TestAdvisePod_ManifestOnly_SaysNothingOfTheConsole(t *testing.T) {
	a := good(since, waitHook)
	require.Empty(t, AdvisePod(a.Settings, a.pod, a.selectors, a.version, a.modes))
	a.pod.Containers[0].PreStop, a.modes = nil, []string{"session"}
	require.Equal(t, []string{a.preStop(), a.sessions()}, AdvisePod(a.Settings, a.pod, a.selectors, a.version, a.modes))
	a = good(since, waitHook)
	a.selectors.Replicas = 1
	require.Equal(t, []string{a.singleReplica()}, AdvisePod(a.Settings, a.pod, a.selectors, nil, nil))
}
