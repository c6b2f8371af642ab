// Command build makes the lab's Debian images that are not in the cache yet, and prints its progress.
//
// It needs root, because debootstrap does. Afterwards every user of the same cache can use the images. If another process is filling the
// cache, the command prints that at once and waits.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"quiesce/test/parts/images"
	"quiesce/test/parts/tools/flock"
)

// progressInterval is the time between progress lines: short enough to show life, long enough for a CI log.
const progressInterval = 15 * time.Second

func main() { flock.Main("images", images.Dir, fill) }

func fill(ctx context.Context, lock *os.File) error {
	for _, i := range images.All() {
		if _, err := images.Path(i.Name, i.Tag); err == nil {
			continue
		}
		if err := (maker{lock}).image(ctx, i); err != nil {
			return fmt.Errorf("make %s: %w", i, err)
		}
	}
	return nil
}

// maker makes images while it holds the cache's lock. Its child processes also hold the lock: if the maker is killed, the next one
// waits until they end.
type maker struct{ lock *os.File }

func (m maker) image(ctx context.Context, i images.Image) error {
	if err := able(); err != nil {
		return err
	}
	what := fmt.Sprintf("%s from Debian %s", i, i.Suite)
	fmt.Printf("images: making %s\n", what)
	began := time.Now()
	defer report(what, began)()
	size, err := m.finish(ctx, i)
	if err != nil {
		return err
	}
	fmt.Printf("images: made %s: %d MB in %s\n", i, size>>20, time.Since(began).Round(time.Second))
	return nil
}

// able returns all reasons at once why this process cannot make a root filesystem.
func able() error {
	var errs []error
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		errs = append(errs, errors.New("root on Linux is needed"))
	}
	if _, err := exec.LookPath(debootstrap); err != nil {
		errs = append(errs, errors.New("debootstrap is not installed"))
	}
	if len(errs) == 2 {
		return fmt.Errorf("%w, and %w", errs[0], errs[1])
	}
	return errors.Join(errs...)
}

// report prints that the image is still being made, until it is stopped.
func report(what string, began time.Time) (stop func()) {
	stopped := make(chan struct{})
	go func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-tick.C:
				fmt.Printf("images: making %s: %s\n", what, time.Since(began).Round(time.Second))
			}
		}
	}()
	return func() { close(stopped) }
}
