package flock

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moment is how long the second process may take to show that it does not wait. A passing test takes that long.
const moment = 50 * time.Millisecond

func TestLock_Held_SecondWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "if", "missing")
	lock, err := Lock(dir)
	require.NoError(t, err)
	second := make(chan error)
	go func() {
		lock, err := Lock(dir)
		if err == nil {
			lock.Close()
		}
		second <- err
	}()
	select {
	case <-second:
		t.Fatal("both have the lock")
	case <-time.After(moment):
	}
	lock.Close()
	require.NoError(t, <-second)
}
