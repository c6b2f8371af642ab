// Package flock keeps two commands that fill the same cache on one machine from doing the same work twice.
package flock

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

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
