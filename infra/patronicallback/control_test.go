package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// control makes a data directory whose PostgreSQL is in this state.
func control(t *testing.T, state uint32) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, "global"), 0o700))
	text := binary.NativeEndian.AppendUint32(make([]byte, 16), state)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "global", "pg_control"), append(text, make([]byte, 100)...), 0o600))
	return folder
}

func TestRunsPrimary_State_Decides(t *testing.T) {
	for state := range uint32(8) {
		is, err := runsPrimary(control(t, state))
		require.NoError(t, err)
		require.Equal(t, state == 6, is, state)
	}
	_, err := runsPrimary(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestDataFolder_Processes_ThePostmasterSaysIt(t *testing.T) {
	process := func(proc, pid, cmdline string) {
		require.NoError(t, os.MkdirAll(filepath.Join(proc, pid), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(cmdline), 0o600))
	}
	proc := t.TempDir()
	_, err := dataFolder(proc)
	require.ErrorContains(t, err, "-data")
	process(proc, "1", "/usr/bin/python3\x00/usr/bin/patroni\x00-D\x00/etc\x00")
	process(proc, "20", "/usr/lib/postgresql/17/bin/postgres\x00-D\x00/data/db\x00--port=5432\x00")
	process(proc, "21", "postgres: demo: checkpointer \x00")
	process(proc, "22", "")
	process(proc, "23", "postgres\x00--describe-config\x00more\x00")
	found, err := dataFolder(proc)
	require.NoError(t, err)
	require.Equal(t, "/data/db", found)
	process(proc, "30", "postgres\x00-D\x00/other\x00")
	_, err = dataFolder(proc)
	require.ErrorContains(t, err, "-data", "two of them")
}

// Patroni is told to stop: it shuts its REST API down first.
func TestBeforeStop_PatroniStops_PrimaryPaused(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.patroni.Close()
	require.Zero(t, f.run(beforeStop, "-data "+control(t, inProduction)))
	f.requirePaused()
	f.killWatchers()
	f.requirePaused()
}

func TestBeforeStop_PatroniStopsAReplica_Nothing(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.patroni.Close()
	require.Zero(t, f.run(beforeStop, "-data "+control(t, 5)))
	f.requireAsBefore()
	require.NotContains(t, f.read(f.output), "paused the pooler")
}
