package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"quiesce/test/parts/images"
)

// A store is the root folder of a containerd with images in it. Importing an image takes seconds, most of them for the disk.
// Copying a store takes a fraction of one, since its files are linked. So the Debian images are imported once into a store in the
// user's cache, the lab's own programs once into the lab's copy of it, and every machine gets a copy of that.

// sandbox is the program of the container that holds a pod's namespaces.
const sandbox = "pause"

// prepareStore makes the lab's store.
func (l *Lab) prepareStore(ctx context.Context) error {
	programs, err := l.packPrograms(ctx)
	if err != nil {
		return err
	}
	cached, err := l.cachedStore(ctx)
	if err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	if cached != "" {
		if err := copyStore(ctx, cached, l.store()); err != nil {
			return fmt.Errorf("copy the images: %w", err)
		}
	}
	if err := l.importInto(ctx, l.store(), programs); err != nil {
		return fmt.Errorf("import the programs' images: %w", err)
	}
	return nil
}

func (l *Lab) store() string { return l.Path("store") }

// packPrograms makes images of the Go programs and of the sandbox program.
func (l *Lab) packPrograms(ctx context.Context) (archives []string, err error) {
	pack := func(name, path string) {
		archive := l.Path(name + ".tar")
		archives = append(archives, archive)
		err = errors.Join(err, images.Program(ctx, ".", path, name, archive))
	}
	pack(sandbox, "quiesce/test/parts/images/pause")
	for name, path := range l.options.Programs {
		pack(name, path)
	}
	return archives, err
}

// cachedStore returns the store of Options.Images, and makes it if it is not in the cache; empty if there are no images.
func (l *Lab) cachedStore(ctx context.Context) (string, error) {
	if len(l.options.Images) == 0 {
		return "", nil
	}
	key, err := storeKey(l.options.Images)
	if err != nil {
		return "", err
	}
	cache, err := images.Dir()
	if err != nil {
		return "", err
	}
	store := filepath.Join(cache, "containerd-"+key)
	lock, err := os.Create(store + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(store); err == nil {
		return store, nil
	}
	return store, l.makeStore(ctx, store)
}

// makeStore makes the store completely or not at all.
func (l *Lab) makeStore(ctx context.Context, store string) error {
	unfinished := store + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := l.importInto(ctx, unfinished, l.options.Images); err != nil {
		return err
	}
	return os.Rename(unfinished, store)
}

// storeKey returns a key that changes with any of the archives.
func storeKey(archives []string) (string, error) {
	hash := sha256.New()
	for _, archive := range archives {
		info, err := os.Stat(archive)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(hash, archive, info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}

// importInto runs a containerd that imports archives into a store.
func (l *Lab) importInto(ctx context.Context, store string, archives []string) error {
	socket := l.Path("store.sock")
	containerd, err := l.spawn("containerd-store", l.program(context.Background(), "containerd",
		"--root", store, "--state", l.Path("store-state"), "--address", socket))
	if err != nil {
		return err
	}
	up := func(ctx context.Context) error { return run(ctx, "ctr", "--address", socket, "version") }
	if err := l.await(ctx, containerd, up); err != nil {
		return err
	}
	for _, archive := range archives {
		err := run(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
		if err != nil {
			return err
		}
	}
	return l.finish(ctx, containerd, syscall.SIGTERM)
}

// copyStore links the files of a store, whose images never change, and copies its databases, which do.
func copyStore(ctx context.Context, from, to string) error {
	if err := run(ctx, "cp", "--archive", "--link", from, to); err != nil {
		_ = os.RemoveAll(to) // a link to another file system is impossible
		if err := run(ctx, "cp", "--archive", from, to); err != nil {
			return err
		}
	}
	return filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".db" {
			return err
		}
		own := path + ".own"
		if err := exec.CommandContext(ctx, "cp", path, own).Run(); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		return os.Rename(own, path)
	})
}
