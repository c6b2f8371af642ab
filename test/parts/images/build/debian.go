package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"quiesce/test/parts/images"
	"quiesce/test/parts/images/archive"
	"quiesce/test/parts/tools"
)

const (
	debootstrap = "debootstrap"
	// stopGrace is how long an interrupted debootstrap may take to leave its chroot and unmount its mounts. The caller unmounts
	// the rest.
	stopGrace = 10 * time.Second
	// saidTail is how many bytes of a failed debootstrap's output an error has: enough for the last lines.
	saidTail = 2000
)

// finish makes the missing parts of an image, the archive last: an image with an archive is complete.
func (m maker) finish(ctx context.Context, i images.Image) (size int64, err error) {
	rootfs, err := i.Unpacked()
	if err != nil {
		return 0, err
	}
	if _, err := images.Rootfs(i.Name, i.Tag); err != nil {
		if err := m.unpack(ctx, i, rootfs); err != nil {
			return 0, err
		}
	}
	path, err := i.Cached()
	if err != nil {
		return 0, err
	}
	config := archive.Config{Ref: i.Ref(), User: images.User, Env: []string{"PATH=" + i.Path}}
	if err := archive.Write(path, rootfs, config); err != nil {
		return 0, fmt.Errorf("pack it: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// unpack makes the image's root filesystem at rootfs, which appears only when it is complete and verified.
func (m maker) unpack(ctx context.Context, i images.Image, rootfs string) error {
	unfinished := rootfs + ".unfinished"
	if err := remove(unfinished); err != nil { // from a build that was killed
		return err
	}
	defer remove(unfinished)
	if err := m.bootstrap(ctx, i, unfinished); err != nil {
		return err
	}
	if err := unmountBelow(unfinished); err != nil {
		return err
	}
	if err := trim(unfinished, i.Trim); err != nil {
		return fmt.Errorf("trim it: %w", err)
	}
	if err := add(unfinished, i); err != nil {
		return fmt.Errorf("add the tool %s: %w", i.Tool, err)
	}
	if err := relink(unfinished); err != nil {
		return fmt.Errorf("make its links relative: %w", err)
	}
	if err := verify(ctx, i, unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, rootfs)
}

// add gives the image its tool and its further links.
func add(rootfs string, i images.Image) error {
	if i.Tool != "" {
		tool, err := tools.Path(i.Tool)
		if err != nil {
			return err
		}
		program, err := os.ReadFile(tool)
		if err != nil {
			return err
		}
		path := filepath.Join(rootfs, i.At)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, program, 0o755); err != nil {
			return err
		}
	}
	for link := range slices.Chunk(i.Links, 2) {
		if err := os.Symlink(link[1], filepath.Join(rootfs, link[0])); err != nil {
			return err
		}
	}
	return nil
}

// bootstrap unpacks and configures the Debian packages. It leaves no process running, and an error has the packages' output.
func (m maker) bootstrap(ctx context.Context, i images.Image, dir string) error {
	cmd := exec.CommandContext(ctx, debootstrap, "--variant=minbase", "--include="+i.Package, i.Suite, dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	// A process group of its own, since the processes inside its chroots must end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	cmd.ExtraFiles = []*os.File{m.lock}
	said, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	log, _ := os.ReadFile(filepath.Join(dir, debootstrap, debootstrap+".log"))
	return fmt.Errorf("%s: %w\n%s%s", debootstrap, err, tail(log), tail(said))
}

func tail(said []byte) []byte { return said[max(0, len(said)-saidTail):] }

var versionNumber = regexp.MustCompile(`\d+(\.\d+)+`)

// verify runs the image's program: its version must match the tag, and trimming must not have removed what it needs.
func verify(ctx context.Context, i images.Image, rootfs string) error {
	said, err := exec.CommandContext(ctx, "chroot", rootfs, i.Program, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s in it: %w\n%s", i.Program, err, said)
	}
	version := string(versionNumber.Find(said))
	if !strings.HasPrefix(version, i.Tag+".") {
		first, _, _ := bytes.Cut(said, []byte("\n"))
		return fmt.Errorf("%s of Debian %s has another version than %s: %q", i.Package, i.Suite, i.Tag, first)
	}
	return nil
}
