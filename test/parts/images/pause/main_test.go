package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
)

const (
	// waitTimeout is far longer than a process takes to start and to reap, even on a busy machine.
	waitTimeout = 10 * time.Second
	// pollInterval is the time between checks of the process's children, a read of one small file.
	pollInterval = 10 * time.Millisecond
	// asPause in the environment makes the test binary run as pause.
	asPause = "QUIESCE_TEST_PAUSE"
)

func TestMain(m *testing.M) {
	if os.Getenv(asPause) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestPause_Children_ReapedUntilSignaled(t *testing.T) {
	if runtime.GOOS != "linux" {
		need.Part(t, errors.New("it is a program for Linux"))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			// The shell becomes pause, which inherits a child that ended before pause started, and one that ends later.
			pause := exec.Command("sh", "-c", `true & sleep 0.2 & exec "$0"`, self)
			pause.Env = append(os.Environ(), asPause+"=1")
			require.NoError(t, pause.Start())
			defer pause.Process.Kill()
			require.Eventually(t, func() bool { return hasReaped(pause.Process.Pid, self) }, waitTimeout, pollInterval)
			require.NoError(t, pause.Process.Signal(signal))
			require.NoError(t, pause.Wait())
		})
	}
}

// hasReaped reports whether the process is pause, no longer the shell, and has no children, not even dead ones. It then handles
// signals, since it reaped the second child after a signal.
func hasReaped(pid int, pause string) bool {
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	return program == pause && err == nil && len(children) == 0
}
