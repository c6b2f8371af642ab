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
	"sync"
	"syscall"
)

// reaperScript waits until its stdin is closed, which happens as soon as the process that started the lab has ended in any way,
// SIGKILL included. Then it kills the process group $1 and removes the folder and the control groups of the same name. It also
// creates the folder, so that no folder exists before its remover does. It retries the removal because a process killed a moment
// ago may still finish a write.
const reaperScript = `
trap '' HUP INT TERM
dir=$(mktemp -d "${TMPDIR:-/tmp}/quiesce-lab.XXXXXX") || exit 1
echo "$dir"
exec >/dev/null
cat
kill -s KILL -- "-$1"
remove() {
	left=$(find /sys/fs/cgroup /sys/fs/cgroup/* -maxdepth 1 -name "${dir##*/}" 2>/dev/null)
	[ -z "$left" ] || find $left -depth -type d -exec rmdir {} + || return 1
	rm -rf "$dir"
}
attempts=50
while [ $((attempts -= 1)) -gt 0 ]; do
	remove 2>/dev/null && exit 0
	sleep 0.1
done
remove`

// reaper is a folder and a process group that end when this process does.
type reaper struct {
	dir      string
	group    int      // ID of the process group of the lab's processes
	lifeline *os.File // the reaper's process starts its work when this is closed, by us or by our death
	process  *exec.Cmd
	leader   *exec.Cmd
	end      func() error // kills the group and removes the folder; idempotent
}

func startReaper(ctx context.Context) (*reaper, error) {
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the guardian's pipe: %w", err)
	}
	defer stdin.Close()
	c := &reaper{lifeline: lifeline}
	c.end = sync.OnceValue(c.close)
	if err := c.open(ctx, stdin); err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

// open starts the group's leader and the reaper's process. The leader only gives the group its number before any process of the
// lab exists. It also ends with the lifeline, in case we die before the reaper's process starts.
func (c *reaper) open(ctx context.Context, stdin *os.File) error {
	leader := exec.Command("cat")
	leader.Stdin = stdin
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := leader.Start(); err != nil {
		return fmt.Errorf("start the leader of the lab's process group: %w", err)
	}
	c.leader, c.group = leader, leader.Process.Pid
	return c.startProcess(ctx, stdin)
}

func (c *reaper) startProcess(ctx context.Context, stdin *os.File) error {
	guardian := exec.Command("sh", "-c", reaperScript, "guardian", strconv.Itoa(c.group))
	guardian.Stdin = stdin
	guardian.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := guardian.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make the guardian's pipe: %w", err)
	}
	if err := guardian.Start(); err != nil {
		return fmt.Errorf("start the guardian: %w", err)
	}
	c.process = guardian
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("let the guardian make the lab's folder: %w", err)
	}
	c.dir = strings.TrimSuffix(dir, "\n")
	return context.Cause(ctx)
}

// close closes the lifeline and waits until the reaper's process has finished.
func (c *reaper) close() error {
	err := c.lifeline.Close()
	if c.process != nil {
		if waited := c.process.Wait(); waited != nil {
			err = errors.Join(err, fmt.Errorf("clean up after the lab: %w", waited))
		}
	}
	if c.leader != nil {
		_ = c.leader.Wait() // killed by the reaper's process or ended with the lifeline, whichever came first
	}
	return err
}
