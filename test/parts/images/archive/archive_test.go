package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestArchive_Files_KeepModeContentAndLink(t *testing.T) {
	rootfs := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(rootfs, "usr/bin"), 0o755))
	write(t, filepath.Join(rootfs, "usr/bin/tool"), "a program", fs.ModeSetuid|0o751)
	require.NoError(t, os.Symlink("usr/bin", filepath.Join(rootfs, "bin")))
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(rootfs, "dangling")))
	require.NoError(t, os.Mkdir(filepath.Join(rootfs, "tmp"), 0o777))
	require.NoError(t, os.Chmod(filepath.Join(rootfs, "tmp"), fs.ModeSticky|0o777))

	files := pack(t, rootfs)
	require.Len(t, files, 6)
	require.Equal(t, "a program", files["usr/bin/tool"].content)
	require.Equal(t, fs.ModeSetuid|0o751, files["usr/bin/tool"].FileInfo().Mode())
	require.Equal(t, fs.ModeDir|fs.ModeSticky|0o777, files["tmp/"].FileInfo().Mode())
	require.Equal(t, "usr/bin", files["bin"].Linkname)
	require.EqualValues(t, tar.TypeSymlink, files["bin"].Typeflag)
	require.Equal(t, "/nowhere", files["dangling"].Linkname)
}

func TestArchive_Owners_Numeric(t *testing.T) {
	rootfs := t.TempDir()
	path := filepath.Join(rootfs, "file")
	write(t, path, "", 0o600)
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // only root can give files to other users
		uid, gid = 12345, 54321
		require.NoError(t, os.Lchown(path, uid, gid))
	}
	file := pack(t, rootfs)["file"]
	require.Equal(t, []int{uid, gid}, []int{file.Uid, file.Gid})
	require.Empty(t, file.Uname+file.Gname)
}

func TestArchive_HardLinks_PackedOnce(t *testing.T) {
	rootfs := t.TempDir()
	write(t, filepath.Join(rootfs, "a"), "content", 0o644)
	require.NoError(t, os.Link(filepath.Join(rootfs, "a"), filepath.Join(rootfs, "b")))
	require.NoError(t, os.Link(filepath.Join(rootfs, "a"), filepath.Join(rootfs, "c")))
	files := pack(t, rootfs)
	require.Equal(t, "content", files["a"].content)
	for _, name := range []string{"b", "c"} {
		require.EqualValues(t, tar.TypeLink, files[name].Typeflag)
		require.Equal(t, "a", files[name].Linkname)
		require.Zero(t, files[name].Size)
	}
}

func TestArchive_Sockets_Omitted(t *testing.T) {
	rootfs := t.TempDir()
	t.Chdir(rootfs) // a socket's path must be short
	socket, err := net.Listen("unix", "socket")
	require.NoError(t, err)
	defer socket.Close()
	write(t, filepath.Join(rootfs, "file"), "", 0o644)
	files := pack(t, rootfs)
	require.Contains(t, files, "file")
	require.NotContains(t, files, "socket")
}

func TestArchive_Descriptions_MatchLayer(t *testing.T) {
	rootfs, dest := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
	write(t, filepath.Join(rootfs, "file"), "content", 0o644)
	config := Config{Ref: "localhost/thing:1", User: "someone", Env: []string{"PATH=/bin"}, Entrypoint: []string{"/file"}}
	require.NoError(t, Write(dest, rootfs, config))

	parts := untar(t, dest)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	require.NoError(t, json.Unmarshal([]byte(parts["manifest.json"].content), &manifest))
	require.Len(t, manifest, 1)
	require.Equal(t, []string{config.Ref}, manifest[0].RepoTags)
	require.Len(t, manifest[0].Layers, 1)
	description := parts[manifest[0].Config].content
	require.Equal(t, fmt.Sprintf("%x.json", sha256.Sum256([]byte(description))), manifest[0].Config)

	var image struct {
		OS     string
		Config struct {
			User            string
			Env, Entrypoint []string
		} `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(description), &image))
	require.Equal(t, "linux", image.OS)
	require.Equal(t, config, Config{config.Ref, image.Config.User, image.Config.Env, image.Config.Entrypoint})
	layer := parts[manifest[0].Layers[0]].content
	require.Equal(t, []string{fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(layer)))}, image.RootFS.DiffIDs)
}

func TestArchive_WriteFails_NoFileLeft(t *testing.T) {
	dir := t.TempDir()
	err := Write(filepath.Join(dir, "image.tar"), filepath.Join(dir, "missing"), Config{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	remaining, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, remaining)
}

type packed struct {
	*tar.Header
	content string
}

// pack returns the layer of an image of rootfs.
func pack(t *testing.T, rootfs string) map[string]packed {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, Write(dest, rootfs, Config{Ref: "localhost/test:1"}))
	return entries(t, bytes.NewReader([]byte(untar(t, dest)[layerName].content)))
}

func untar(t *testing.T, path string) map[string]packed {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	return entries(t, file)
}

func entries(t *testing.T, from io.Reader) map[string]packed {
	t.Helper()
	found := map[string]packed{}
	for reader := tar.NewReader(from); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		content, err := io.ReadAll(reader)
		require.NoError(t, err)
		found[header.Name] = packed{header, string(content)}
	}
}

// write makes a file with exactly this mode, whatever the umask.
func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	require.NoError(t, os.Chmod(path, mode))
}
