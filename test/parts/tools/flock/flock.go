// Package flock keeps two commands on one machine from filling the same cache at the same time.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// retryInterval paces the attempts to get a lock that another process holds: short beside a build, and cheap. A blocking flock(2)
	// would neither be interrupted by Ctrl-C nor leave time to report.
	retryInterval = 100 * time.Millisecond
	// reportInterval paces the lines about the wait: often enough to show life, rarely enough for a CI log.
	reportInterval = 15 * time.Second
)

// Main runs a command that fills the cache in dir. It holds the lock until fill returns, and ends the process on an error.
func Main(name string, dir func() (string, error), fill func(context.Context, *os.File) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, name, dir, fill); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, dir func() (string, error), fill func(context.Context, *os.File) error) error {
	path, err := dir()
	if err != nil {
		return err
	}
	lock, err := Lock(ctx, path, func(file string, waited time.Duration) {
		fmt.Printf("%s: another process is filling this cache (it holds %s): waiting, %s so far%s\n",
			name, file, waited.Round(time.Second), told(file))
	})
	if err != nil {
		return err
	}
	defer lock.Close()
	Tell(lock, "") // what the last holder told
	return fill(ctx, lock)
}

// Tell tells those who wait for the lock what its holder does. It is a help only, so an error is ignored.
func Tell(lock *os.File, state string) {
	if lock.Truncate(0) == nil {
		_, _ = lock.WriteAt([]byte(state), 0)
	}
}

// told returns what the holder told last, as the end of a line.
func told(file string) string {
	state, err := os.ReadFile(file)
	if err != nil || len(state) == 0 {
		return ""
	}
	return "; it is " + string(state)
}

// Lock returns the locked file of dir, which it creates if necessary. While another process holds the lock, Lock calls waiting at once
// and then every reportInterval. The lock is held until the file is closed in this process and in every program that inherited it.
func Lock(ctx context.Context, dir string, waiting func(file string, waited time.Duration)) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := acquire(ctx, file, waiting); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return file, nil
}

func acquire(ctx context.Context, file *os.File, waiting func(string, time.Duration)) error {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	began, nextReport := time.Now(), time.Now()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if now := time.Now(); !now.Before(nextReport) {
			waiting(file.Name(), now.Sub(began))
			nextReport = now.Add(reportInterval)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
