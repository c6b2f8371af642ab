// Package archive packs a folder as a container image with one layer, in the form that `docker save` writes and all container
// runtimes import: https://github.com/moby/docker-image-spec, "Combined Image JSON + Filesystem Changeset".
package archive

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/json"

	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Config is what a runtime needs to know about an image beside its files.
type Config struct {
	Ref        string   // its name, host/name:tag
	User       string   // root if empty
	Env        []string // NAME=value
	Entrypoint []string // nil: the pod must give the command
}

const layerName = "layer.tar"

// Write packs the folder rootfs into the file dest, which appears only when it is complete. It keeps nothing in memory: the
// layer, whose size and digest come first in the archive, waits in a file beside dest.
func Write(dest, rootfs string, config Config) error {
	unfinished, layer := dest+".unfinished", dest+".layer"
	defer os.Remove(layer)
	digest, err := writeLayer(layer, rootfs)
	if err != nil {
		return fmt.Errorf("write the layer: %w", err)
	}
	defer os.Remove(unfinished)
	if err := writeImage(unfinished, layer, digest, config); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return os.Rename(unfinished, dest)
}

// writeImage joins the layer and its descriptions.
func writeImage(path, layer, digest string, config Config) error {
	description, err := describe(digest, config)
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(description))
	manifest, err := json.Marshal([]map[string]any{
		{"Config": configName, "RepoTags": []string{config.Ref}, "Layers": []string{layerName}},
	})
	if err != nil {
		return err
	}
	return create(path, func(file io.Writer) error {
		archive := tar.NewWriter(file)
		return cmp.Or(
			writeBytes(archive, "manifest.json", manifest),
			writeBytes(archive, configName, description),
			copyFile(archive, &tar.Header{Name: layerName, Mode: 0o644}, layer),
			archive.Close(),
		)
	})
}

// describe returns the image's configuration: https://github.com/opencontainers/image-spec/blob/main/config.md.
func describe(digest string, config Config) ([]byte, error) {
	type process struct {
		User       string   `json:",omitempty"`
		Env        []string `json:",omitempty"`
		Entrypoint []string `json:",omitempty"`
	}
	return json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       process{config.User, config.Env, config.Entrypoint},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest}},
	})
}

func writeBytes(archive *tar.Writer, name string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

// copyFile adds the file at path with this header, whose size it sets.
func copyFile(archive *tar.Writer, header *tar.Header, path string) error {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

func create(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return cmp.Or(write(file), file.Close())
}
