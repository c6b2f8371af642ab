package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// childVariable in the environment makes the test binary a process that starts a lab and waits to be killed. The value machines
// adds machines to the lab.
const childVariable = "QUIESCE_LAB_CHILD"

// runChild prints the lab's process group and folder, and waits to be killed.
func runChild() {
	machines := os.Getenv(childVariable) == "machines"
	l, err := Start(context.Background(), Options{Machines: machines})
	if err == nil && machines {
		err = l.AddNodes(context.Background(), three...)
	}
	if err == nil && machines {
		_, err = l.Kubectl(context.Background(), "run", "pod", "--image=localhost/pause:lab", "--image-pull-policy=Never")
	}
	if err == nil && machines {
		_, err = l.Kubectl(context.Background(), "wait", "pod/pod", "--for=condition=Ready", "--timeout=1m")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.reaper.group, l.reaper.dir)
	select {}
}

func TestReaper_ProcessKilled_NothingRemains(t *testing.T) {
	Require(t)
	child, group, dir := startChild(t, "1")
	require.DirExists(t, dir)
	require.True(t, alive(t, group))

	require.NoError(t, child.Process.Kill())
	_ = child.Wait() // returns that it was killed
	requireCleanedUp(t, group, dir)
}

// startChild starts a process that has a lab, with machines if that is the value, and waits to be killed.
func startChild(t *testing.T, what string) (child *exec.Cmd, group int, dir string) {
	t.Helper()
	child = exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+what)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = fmt.Fscan(bufio.NewReader(stdout), &group, &dir)
	require.NoError(t, err)
	return child, group, dir
}

func TestReaper_Stop_NothingRemains(t *testing.T) {
	r, err := startReaper(t.Context())
	require.NoError(t, err)
	require.DirExists(t, r.dir)
	require.NoError(t, r.end())
	require.NoError(t, r.end())
	requireCleanedUp(t, r.group, r.dir)
}

func requireCleanedUp(t *testing.T, group int, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist) && !alive(t, group)
	}, waitTimeout, tick)
}

// alive reports whether a process of the group runs. A signal to the group would also reach ended processes that a container's
// init has not yet reaped.
func alive(t *testing.T, group int) bool {
	t.Helper()
	processes, err := exec.CommandContext(t.Context(), "ps", "-A", "-o", "pgid=", "-o", "stat=").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(processes)) {
		fields := strings.Fields(line)
		if fields[0] == strconv.Itoa(group) && !strings.HasPrefix(fields[1], "Z") {
			return true
		}
	}
	return false
}
