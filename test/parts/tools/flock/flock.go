// Package flock prevents two commands that fill the same cache from doing the same work twice.
package flock

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Main runs a command that fills the cache in dir while it holds the lock, until it is interrupted. It exits on an error.
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

// Lock waits for the lock of dir, which it makes if necessary. The lock is held until the file is closed in this process and in
// all programs that inherited it.
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
