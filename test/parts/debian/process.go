package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// PollInterval is the time between checks of a condition that sends no signal: well below the tens of milliseconds that these
	// programs take to start.
	PollInterval = 5 * time.Millisecond
	// StartTimeout is far more than a start takes, even on a machine that is busy with other tests.
	StartTimeout = 30 * time.Second
	// stopTimeout is how long a program may take to end after a signal before it is killed.
	stopTimeout = 10 * time.Second
	// logTail is how many bytes of a program's log an error carries: enough for its last lines.
	logTail = 3000
)

// PostgreSQL and pgbouncer refuse to run as root. For root they run as the user nobody, with the capability to read everything:
// the images are in root's cache, which other users cannot enter.
const (
	nobody           = 65534
	capDACReadSearch = 2 // linux/capability.h
)

// Process is one running program.
type Process struct {
	*os.Process
	Log   string           // path of the file that has its output
	Ended chan struct{}    // closed when the process has ended
	State *os.ProcessState // set before Ended is closed
}

// Command returns a command that runs a script as a user other than root and ends with this process. It starts the shell, not the
// script: a child that another test is just starting may still hold the script open for writing, which makes it busy.
func Command(ctx context.Context, dir, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", append([]string{script}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "TZ=UTC", "LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		cmd.SysProcAttr.AmbientCaps = []uintptr{capDACReadSearch}
	}
	return cmd
}

// MakeFolder makes a folder in which the programs may write. Only root may enter the folders of package testing.
func MakeFolder(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.Chmod(dir, 0o755), Chown(dir)); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// Chown gives a file to the user that the programs run as.
func Chown(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, nobody, nobody)
}

// Start starts cmd and waits until it is ready. Its output goes to the file log in its folder.
func Start(cmd *exec.Cmd, ready func(context.Context) error) (*Process, error) {
	p := &Process{Log: filepath.Join(cmd.Dir, "log"), Ended: make(chan struct{})}
	log, err := os.Create(p.Log)
	if err != nil {
		return nil, fmt.Errorf("make its log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.Process = cmd.Process
	go func() {
		_ = cmd.Wait() // the state has the result
		p.State = cmd.ProcessState
		close(p.Ended)
	}()
	if err := p.await(ready); err != nil {
		p.Stop(syscall.SIGKILL)
		return nil, fmt.Errorf("%w\nthe end of its log:\n%s", err, tail(p.Log))
	}
	return p, nil
}

// await polls until the program is ready or has ended.
func (p *Process) await(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), StartTimeout)
	defer cancel()
	ticker := time.NewTicker(PollInterval)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Ended:
			return fmt.Errorf("the program ended: %v", p.State)
		case <-ctx.Done():
			return fmt.Errorf("the program did not become ready: %w", err)
		case <-ticker.C:
		}
	}
}

// Stop ends the program with a signal, and kills it after stopTimeout.
func (p *Process) Stop(signal os.Signal) {
	if err := p.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // our own child: signaling it cannot be forbidden
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.Ended:
	case <-timeout.C:
		_ = p.Kill()
		<-p.Ended
	}
}

func tail(path string) string {
	log, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-logTail):])
}
