package runtimeapi

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCPU_KernelStatistics_UserAndSystemTime(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 140 25 0 0 20 0 9 0\n"
	require.Equal(t, 1650*time.Millisecond, cpuOf([]byte("7 (bootstrap)"+rest)))
	require.Equal(t, 1650*time.Millisecond, cpuOf([]byte("7 (a b) (c)"+rest)))
	require.Zero(t, cpuOf([]byte("7 (bootstrap) S 1")))
	require.Zero(t, cpuOf(nil))
}
