package main

import (
	"archive/zip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// valid is a configuration. The environment names its cluster.
const valid = "{autoScalingGroups: [workers], mode: drain}"

func write(t *testing.T, path, text string, modified time.Time) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chtimes(path, modified, modified))
	return path
}

// A zip that differs from build to build would deploy the function each time.
func TestBundle_SameFiles_SameBytes(t *testing.T) {
	var bundles [][]byte
	for _, modified := range []time.Time{time.Unix(1e9, 0), time.Unix(2e9, 0)} {
		folder := t.TempDir()
		program := write(t, filepath.Join(folder, "program"), "the program", modified)
		configuration := write(t, filepath.Join(folder, "mine.yaml"), valid, modified)
		path := filepath.Join(folder, "function.zip")
		require.NoError(t, bundle(program, configuration, path))
		packed, err := os.ReadFile(path)
		require.NoError(t, err)
		bundles = append(bundles, packed)
	}
	require.Equal(t, bundles[0], bundles[1])
}

func TestBundle_WithConfiguration_HasBootstrapAndIt(t *testing.T) {
	folder := t.TempDir()
	program := write(t, filepath.Join(folder, "program"), "the program", time.Now())
	configuration := write(t, filepath.Join(folder, "mine.yaml"), valid, time.Now())
	path := filepath.Join(folder, "function.zip")
	require.NoError(t, bundle(program, configuration, path))
	archive, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer archive.Close()
	require.Len(t, archive.File, 2)
	require.Equal(t, "bootstrap", archive.File[0].Name)
	require.Equal(t, os.FileMode(0o755), archive.File[0].Mode())
	require.Equal(t, "quiesce.yaml", archive.File[1].Name)
	require.ErrorContains(t, bundle(filepath.Join(folder, "missing"), configuration, path), "missing")
}

func TestBundle_NoConfiguration_HasBootstrapOnly(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "function.zip")
	require.NoError(t, bundle(write(t, filepath.Join(folder, "program"), "the program", time.Now()), "", path))
	archive, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer archive.Close()
	require.Len(t, archive.File, 1)
	require.Equal(t, "bootstrap", archive.File[0].Name)
}

func TestBundle_InvalidConfiguration_PathAndLineAreNamed(t *testing.T) {
	folder := t.TempDir()
	program := write(t, filepath.Join(folder, "program"), "the program", time.Now())
	configuration := write(t, filepath.Join(folder, "prod.yaml"), "autoScalingGroups: [workers]\nmode: drain\ndrian: {}", time.Now())
	path := filepath.Join(folder, "function.zip")
	require.EqualError(t, bundle(program, configuration, path),
		"the configuration has errors:\n"+configuration+":3: drian: unknown key; did you mean drain?")
	require.NoFileExists(t, path)
}
