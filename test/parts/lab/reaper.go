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
		return nil, fmt.Errorf("make the reaper's pipe: %w", err)
	}
	defer stdin.Close()
	r := &reaper{lifeline: lifeline}
	r.end = sync.OnceValue(r.close)
	if err := r.open(ctx, stdin); err != nil {
		return nil, errors.Join(err, r.end())
	}
	return r, nil
}

// open starts the group's leader and the reaper's process. The leader only gives the group its number before any process of the
// lab exists. It also ends with the lifeline, in case we die before the reaper's process starts.
func (r *reaper) open(ctx context.Context, stdin *os.File) error {
	leader := exec.Command("cat")
	leader.Stdin = stdin
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := leader.Start(); err != nil {
		return fmt.Errorf("start the leader of the lab's process group: %w", err)
	}
	r.leader, r.group = leader, leader.Process.Pid
	return r.startProcess(ctx, stdin)
}

func (r *reaper) startProcess(ctx context.Context, stdin *os.File) error {
	script := exec.Command("sh", "-c", reaperScript, "script", strconv.Itoa(r.group))
	script.Stdin = stdin
	script.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := script.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make the reaper's pipe: %w", err)
	}
	if err := script.Start(); err != nil {
		return fmt.Errorf("start the reaper: %w", err)
	}
	r.process = script
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("let the reaper make the lab's folder: %w", err)
	}
	r.dir = strings.TrimSuffix(dir, "\n")
	return context.Cause(ctx)
}

// close closes the lifeline and waits until the reaper's process has finished.
func (r *reaper) close() error {
	err := r.lifeline.Close()
	if r.process != nil {
		if waited := r.process.Wait(); waited != nil {
			err = errors.Join(err, fmt.Errorf("clean up after the lab: %w", waited))
		}
	}
	if r.leader != nil {
		_ = r.leader.Wait() // killed by the reaper's process or ended with the lifeline, whichever came first
	}
	return err
}
