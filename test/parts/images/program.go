package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"quiesce/test/parts/images/archive"
)

// lab is the tag of all program images. They are rebuilt from the working tree on every request.
const lab = "lab"

// ProgramRef returns the name by which a pod refers to the image that Program makes.
func ProgramRef(name string) string { return host + name + ":" + lab }

// Program builds the main package pkg of the repository at root, without cgo, and writes an image that has only it, as /name, to
// the archive dest.
func Program(ctx context.Context, root, pkg, name, dest string) error {
	rootfs, err := os.MkdirTemp("", "quiesce-image.")
	if err != nil {
		return fmt.Errorf("make a folder for the image %s: %w", name, err)
	}
	defer os.RemoveAll(rootfs)
	if err := compile(ctx, root, pkg, filepath.Join(rootfs, name)); err != nil {
		return err
	}
	config := archive.Config{Ref: ProgramRef(name), Entrypoint: []string{"/" + name}}
	if err := archive.Write(dest, rootfs, config); err != nil {
		return fmt.Errorf("pack the image %s: %w", name, err)
	}
	return nil
}

func compile(ctx context.Context, root, pkg, program string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}
