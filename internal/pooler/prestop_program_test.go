package pooler

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
)

func TestReadPreStop_OurProgram_WaitsUntilPgbouncerIsGone(t *testing.T) {
	for command, want := range map[string]time.Duration{
		"/prestop/prestop pgbouncer":                                    programQuiet,
		"prestop pgbouncer --grace=90":                                  programQuiet,
		"prestop pgbouncer --quiet-for=20s --grace=90":                  15 * time.Second,
		"prestop pgbouncer --quiet-for=12s":                             12 * time.Second,
		"prestop pgbouncer -quiet-for 12":                               12 * time.Second,
		"prestop pgbouncer --quiet-for=0s":                              0,
		"prestop pgbouncer --quiet-for=soon":                            0,
		"prestop pgbouncer --quiet-for=20s --accept-for=10s":            10 * time.Second,
		"prestop pgbouncer --quiet-for=20s --grace=30s --accept-for=1m": 15 * time.Second,
	} {
		require.Equal(t, preStop{delay: want, open: true, waits: true, stops: true}, readPreStop(strings.Fields(command)), command)
	}
	for _, command := range []string{"prestop install /prestop", "prestop", "sh -c prestop"} {
		require.Zero(t, readPreStop(strings.Fields(command)).delay, command)
		require.False(t, readPreStop(strings.Fields(command)).waits, command)
	}
}

// The escort relies on the time for which the program lets pgbouncer run.
func TestProgramQuiet_ProgramsOwn_IsTheSame(t *testing.T) {
	source, err := os.ReadFile("../../infra/prestop/options.go")
	require.NoError(t, err)
	require.Equal(t, 5*time.Second, programQuiet)
	require.Contains(t, string(source), "defaultQuietFor = 5 * time.Second\n")
	require.Equal(t, 15*time.Second, programAccept)
	require.Regexp(t, `defaultAcceptFor += 15 \* time.Second\n`, string(source))
	require.Equal(t, 30*time.Second, programGrace)
	require.Regexp(t, `defaultGrace += 30 \* time.Second\n`, string(source))
}

func TestProgramManifest_EachVersion_DrawsNoWarning(t *testing.T) {
	manifest, err := os.ReadFile("../../infra/prestop/pgbouncer.yaml")
	require.NoError(t, err)
	for _, version := range []pgbouncer.Version{{Major: 1, Minor: 18}, {Major: 1, Minor: 22, Patch: 1}, {Major: 1, Minor: 23}, {Major: 1, Minor: 25}} {
		a := adviceOn(t, string(manifest))
		require.NotZero(t, readPreStop(poolerOf(a.pod).PreStop).delay)
		a.probe = probe{version: &version, modes: []string{"transaction"}}
		require.Empty(t, advise(a), "%v", version)
	}
}
