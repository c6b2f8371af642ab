package debian

import (
	"fmt"
	"os"
	"path/filepath"

	"quiesce/test/parts/images"
)

// Image is the unpacked root filesystem of an image.
type Image struct {
	Root      string
	libraries string
	loader    string
}

// Unpacked returns the image of this name and tag, or an error if it is not built.
func Unpacked(name, tag string) (Image, error) {
	root, err := images.Rootfs(name, tag)
	if err != nil {
		return Image{}, err
	}
	// Not the loader's usual name in /lib64: that is a symbolic link to an absolute path, which leads back to the host.
	loaders, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu/ld-linux-*.so.*"))
	if err != nil || len(loaders) != 1 {
		return Image{}, fmt.Errorf("image %s:%s has not one dynamic loader but %d", name, tag, len(loaders))
	}
	return Image{Root: root, loader: loaders[0], libraries: filepath.Dir(loaders[0])}, nil
}

// Wrap writes a script to dir that runs a program of the image, and returns its path. The program sees the script's path as its
// own: PostgreSQL's programs find each other and their files relative to it.
func (i Image) Wrap(dir, program string) (string, error) {
	script := filepath.Join(dir, filepath.Base(program))
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' --library-path '%s' --argv0 '%s' '%s' \"$@\"\n",
		i.loader, i.libraries, script, filepath.Join(i.Root, program))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return "", fmt.Errorf("wrap %s: %w", program, err)
	}
	return script, nil
}
