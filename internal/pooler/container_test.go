package pooler

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

func TestNeedsPort_Command_UnlessItOnlyLooksForTheProcess(t *testing.T) {
	for _, command := range [][]string{
		{"pg_isready", "-p", "6432"}, {"sh", "-c", "pg_isready"}, {"/probe.sh"}, {"sh", "-c", "pidof pgbouncer && pg_isready"},
		{"sh", "-c", "pidof pgbouncer\npg_isready"}, {"sh", "-c", "kill -0 $(pg_isready)"}, {"true"},
	} {
		require.True(t, needsPort(escort.LivenessProbe{Command: command}, 6432), command)
	}
	for _, command := range [][]string{
		{"pidof", "pgbouncer"}, {"/usr/bin/pgrep", "-x", "pgbouncer"}, {"sh", "-c", "kill -0 1"}, {"/bin/bash", "-ec", "pidof pgbouncer > /dev/null"},
	} {
		require.False(t, needsPort(escort.LivenessProbe{Command: command}, 6432), command)
	}
}
