package images

import (
	"archive/tar"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
)

func TestCached_EachImage_PathOfItsOwn(t *testing.T) {
	paths := map[string]bool{}
	for _, i := range All() {
		path, err := i.Cached()
		require.NoError(t, err)
		require.False(t, paths[path], "two images are kept in %s", path)
		paths[path] = true
	}
}

func TestImageRef_Registry_DoesNotExist(t *testing.T) {
	require.Equal(t, "localhost/pgbouncer:1.18", All()[0].Ref())
}

func TestPath_NotBuilt_ErrorNamesRemedy(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, find := range []func(name, tag string) (string, error){Path, Rootfs} {
		_, err := find("pgbouncer", "1.24")
		require.ErrorContains(t, err, "pgbouncer:1.24")
		require.ErrorContains(t, err, "make images")
		_, err = find("pgbouncer", "0.1")
		require.ErrorContains(t, err, "no image is called pgbouncer:0.1")
	}
}

func TestPath_Built_FoundInCache(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir, err := Dir()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "postgres-15"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postgres-15.tar"), nil, 0o644))
	path, err := Path("postgres", "15")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "postgres-15.tar"), path)
	rootfs, err := Rootfs("postgres", "15")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "postgres-15"), rootfs)
}

func TestArchive_EachImage_NamesItsRef(t *testing.T) {
	for _, i := range All() {
		t.Run(i.String(), func(t *testing.T) {
			path, err := Path(i.Name, i.Tag)
			need.Part(t, err)
			require.Equal(t, i.Ref(), manifest(t, path).RepoTags[0])
		})
	}
}

// Tests run poolers on the host in this way: without a chroot, which needs root, and with any C library of the host. Patroni is a
// script, whose interpreter needs more than a loader.
func TestProgram_OnTheHost_RunsThroughItsOwnLoader(t *testing.T) {
	for _, i := range All() {
		t.Run(i.String(), func(t *testing.T) {
			rootfs, err := Rootfs(i.Name, i.Tag)
			need.Part(t, err)
			if !isELF(t, rootfs+i.Program) {
				return // a script: nothing to load
			}
			loader := only(t, filepath.Join(rootfs, "lib*/ld-linux-*"))
			real, err := filepath.EvalSymlinks(loader)
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(real, rootfs+"/"), "the loader is the host's: %s", real)
			libraries := only(t, filepath.Join(rootfs, "usr/lib/*-linux-gnu"))
			said, err := exec.Command(loader, "--library-path", libraries, rootfs+i.Program, "--version").CombinedOutput()
			require.NoError(t, err, "%s", said)
			require.Contains(t, string(said), " "+i.Tag+".")
		})
	}
}

func isELF(t *testing.T, path string) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.HasPrefix(string(content), elf.ELFMAG)
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.Len(t, found, 1, "%s", pattern)
	return found[0]
}

type description struct{ RepoTags, Layers []string }

// manifest returns the manifest of an archive, which comes first.
func manifest(t *testing.T, path string) description {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	reader := tar.NewReader(file)
	header, err := reader.Next()
	require.NoError(t, err)
	require.Equal(t, "manifest.json", header.Name)
	var images []description
	require.NoError(t, json.NewDecoder(reader).Decode(&images))
	require.Len(t, images, 1)
	return images[0]
}
