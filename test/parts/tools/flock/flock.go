// Package flock keeps two commands that fill the same cache on one machine from doing the same work twice.
package flock

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Main is a command that fills the cache in dir while it holds the lock, until it is interrupted. It ends with the process.
func Main(name string, dir func() (string, error), fill func(context.Context, *os.File) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, dir, fill); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir func() (string, error), fill func(context.Context, *os.File) error) error {
	path, err := dir()
	if err != nil {
		return err
	}
	lock, err := Lock(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	return fill(ctx, lock)
}

// Lock waits until nobody else holds the lock of dir, which it makes if need be. The lock is held until the file is
// closed, also by every program that was given it, or until all of them have died.
func Lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return file, nil
}
