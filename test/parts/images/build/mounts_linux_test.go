package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
)

func TestRemove_MountInside_MountedFilesKept(t *testing.T) {
	precious, dir := t.TempDir(), filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sys"), 0o755))
	need.Part(t, syscall.Mount(precious, filepath.Join(dir, "sys"), "", syscall.MS_BIND, ""))
	require.NoError(t, remove(dir))
	require.NoDirExists(t, dir)
	require.FileExists(t, filepath.Join(precious, "file"))
	require.NoError(t, remove(dir), "removing nothing is not an error")
}
