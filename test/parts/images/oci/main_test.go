package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// build compiles a small program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pause")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "quiesce/test/parts/images/pause")
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return program
}

func files(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for reader := tar.NewReader(from); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		require.Zero(t, header.Uid+header.Gid)
		require.True(t, header.ModTime.Equal(time.Unix(0, 0)), header.Name)
		found[header.Name], err = io.ReadAll(reader)
		require.NoError(t, err)
	}
}

// descriptor is how one document refers to another.
type descriptor struct {
	Digest string
	Size   int
}

func (d descriptor) in(t *testing.T, all map[string][]byte) []byte {
	t.Helper()
	content := all["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	require.Len(t, content, d.Size)
	require.Equal(t, d.Digest, fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
	return content
}

func TestImage_Layout_OneProgramWithoutRoot(t *testing.T) {
	program, dest := build(t), filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, pack(program, "example.com/pause:v1", dest))
	file, err := os.Open(dest)
	require.NoError(t, err)
	defer file.Close()
	all := files(t, file)
	require.JSONEq(t, `{"imageLayoutVersion":"1.0.0"}`, string(all["oci-layout"]))

	var index struct {
		Manifests []struct {
			descriptor
			Annotations map[string]string
		}
	}
	require.NoError(t, json.Unmarshal(all["index.json"], &index))
	require.Len(t, index.Manifests, 1)
	require.Equal(t, "example.com/pause:v1", index.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	require.NoError(t, json.Unmarshal(index.Manifests[0].in(t, all), &manifest))
	require.Len(t, manifest.Layers, 1)
	var config struct {
		Architecture string
		Config       struct {
			User       string
			Entrypoint []string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	require.NoError(t, json.Unmarshal(manifest.Config.in(t, all), &config))
	require.Equal(t, runtime.GOARCH, config.Architecture)
	require.Equal(t, "65532:65532", config.Config.User)
	require.Equal(t, []string{"/pause"}, config.Config.Entrypoint)
	unpacked, err := gzip.NewReader(strings.NewReader(string(manifest.Layers[0].in(t, all))))
	require.NoError(t, err)
	layer, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}, config.RootFS.DiffIDs)
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"pause": content}, files(t, strings.NewReader(string(layer))))
}

func TestImage_Again_SameBytes(t *testing.T) {
	var made []string
	for range 2 {
		program, dest := build(t), filepath.Join(t.TempDir(), "image.tar") // in other folders
		require.NoError(t, pack(program, "pause:v1", dest))
		content, err := os.ReadFile(dest)
		require.NoError(t, err)
		made = append(made, fmt.Sprintf("%x", sha256.Sum256(content)))
	}
	require.Equal(t, made[0], made[1])
}

// The program says for which machines it is: two bytes of its header.
func TestImage_OtherArchitecture_NamedAsTheProgramIs(t *testing.T) {
	program := build(t)
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	for machine, want := range map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_X86_64: "amd64"} {
		binary.LittleEndian.PutUint16(content[18:], uint16(machine))
		require.NoError(t, os.WriteFile(program, content, 0o755))
		arch, err := check(program)
		require.NoError(t, err)
		require.Equal(t, want, arch)
	}
	binary.LittleEndian.PutUint16(content[18:], uint16(elf.EM_RISCV))
	require.NoError(t, os.WriteFile(program, content, 0o755))
	_, err = check(program)
	require.ErrorContains(t, err, "images are made for arm64 and amd64")
}

func TestImage_NoStaticProgram_Refused(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "image.tar")
	require.ErrorContains(t, pack("main.go", "x:v1", dest), "look at main.go")
	shell, err := exec.LookPath("sh")
	require.NoError(t, err)
	require.ErrorContains(t, pack(shell, "x:v1", dest), "it is not static")
	require.NoFileExists(t, dest)
}
