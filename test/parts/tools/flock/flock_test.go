package flock

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func ignore(string, time.Duration) {}

func TestLock_Free_SaysNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "if", "missing")
	lock, err := Lock(t.Context(), dir, func(string, time.Duration) { t.Error("reported a wait") })
	require.NoError(t, err)
	require.NoError(t, lock.Close())
}

func TestLock_HeldByAnother_ReportsAndWaits(t *testing.T) {
	dir := t.TempDir()
	lock, err := Lock(t.Context(), dir, ignore)
	require.NoError(t, err)
	reported, second := make(chan string, 1), make(chan error)
	go func() {
		lock, err := Lock(t.Context(), dir, func(file string, _ time.Duration) { reported <- file })
		if err == nil {
			lock.Close()
		}
		second <- err
	}()
	require.Equal(t, filepath.Join(dir, ".lock"), <-reported)
	select {
	case <-second:
		t.Fatal("both have the lock")
	case <-time.After(2 * retryInterval):
	}
	lock.Close()
	require.NoError(t, <-second)
}

func TestLock_Canceled_StopsWaiting(t *testing.T) {
	dir := t.TempDir()
	lock, err := Lock(t.Context(), dir, ignore)
	require.NoError(t, err)
	defer lock.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Lock(ctx, dir, func(string, time.Duration) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
}

func TestTell_HolderBuilds_WaitersRead(t *testing.T) {
	lock, err := Lock(t.Context(), t.TempDir(), ignore)
	require.NoError(t, err)
	defer lock.Close()
	require.Empty(t, told(lock.Name()))
	Tell(lock, "building a large program")
	Tell(lock, "building lab")
	require.Equal(t, "; it is building lab", told(lock.Name()))
	Tell(lock, "")
	require.Empty(t, told(lock.Name()))
}
