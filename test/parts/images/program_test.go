package images

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const repository = "../../.."

func TestProgramImage_Content_OneStaticBinary(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "pause.tar")
	require.NoError(t, Program(t.Context(), repository, "./test/parts/images/pause", "pause", dest))
	require.Equal(t, description{[]string{"localhost/pause:lab"}, []string{"layer.tar"}}, manifest(t, dest))

	program := filepath.Join(t.TempDir(), "pause")
	extract(t, dest, program)
	file, err := elf.Open(program)
	require.NoError(t, err)
	defer file.Close()
	libraries, err := file.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries)
}

func TestProgramImage_CompileError_Reported(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "none.tar")
	err := Program(t.Context(), repository, "./test/parts/images/none", "none", dest)
	require.ErrorContains(t, err, "build ./test/parts/images/none")
	require.NoFileExists(t, dest)
}

// extract writes the only file in the archive's layer, which must have the same name as dest.
func extract(t *testing.T, archive, dest string) {
	t.Helper()
	file, err := os.Open(archive)
	require.NoError(t, err)
	defer file.Close()
	outer := tar.NewReader(file)
	for header, err := outer.Next(); header == nil || header.Name != "layer.tar"; header, err = outer.Next() {
		require.NoError(t, err)
	}
	layer := tar.NewReader(outer)
	header, err := layer.Next()
	require.NoError(t, err)
	require.Equal(t, filepath.Base(dest), header.Name)
	require.Equal(t, os.FileMode(0o755), header.FileInfo().Mode())
	content, err := io.ReadAll(layer)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dest, content, 0o755))
	_, err = layer.Next()
	require.True(t, errors.Is(err, io.EOF), "the image has more than its program")
}
