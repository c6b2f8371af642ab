package cputime

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOf_KernelStatistics_UserAndSystemTime(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 140 25 0 0 20 0 9 0\n"
	require.Equal(t, 1650*time.Millisecond, parse([]byte("7 (bootstrap)"+rest)))
	require.Equal(t, 1650*time.Millisecond, parse([]byte("7 (a b) (c)"+rest)))
	require.Zero(t, parse([]byte("7 (bootstrap) S 1")))
	require.Zero(t, parse(nil))
}

func TestOf_NoProcess_Zero(t *testing.T) {
	require.Zero(t, Of(-1))
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		for began := time.Now(); Of(os.Getpid()) == 0; { // it is busy here
			require.Less(t, time.Since(began), time.Minute)
		}
	}
}
