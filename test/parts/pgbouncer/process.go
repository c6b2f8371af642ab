package pgbouncer

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
	// probeInterval is how often something that cannot be waited for is looked at: well below the tens of milliseconds
	// that these programs take to start.
	probeInterval = 5 * time.Millisecond
	// startTimeout is far more than any start takes, on a machine that is busy with other tests.
	startTimeout = 30 * time.Second
	// stopTimeout is how long a program may take to end by itself before it is killed.
	stopTimeout = 10 * time.Second
	// logTail is how many bytes of a program's log an error carries: enough for its last lines.
	logTail = 3000
)

// Both programs refuse to run as root. Then they run as nobody, who may read everything, as the images are in root's cache,
// a folder that others cannot enter.
const (
	nobody           = 65534
	capDACReadSearch = 2 // linux/capability.h
)

// process is one running program.
type process struct {
	*os.Process
	log   string        // path
	ended chan struct{} // closed when it has ended
	state *os.ProcessState
}

// command prepares a script to run as somebody who is not root, and to die with this process. It is the shell that is started:
// the script itself may still be open for writing in a child that another test is just starting, and would be busy.
func command(ctx context.Context, dir, script string, args ...string) *exec.Cmd {
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

// makeFolder makes a folder in which the programs may write. testing's own would not do: nobody but root may enter that.
func makeFolder(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.Chmod(dir, 0o755), giveToPrograms(dir)); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func giveToPrograms(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, nobody, nobody)
}

// start runs cmd until it is ready; what it says goes to a file in its folder.
func start(cmd *exec.Cmd, ready func(context.Context) error) (*process, error) {
	p := &process{log: filepath.Join(cmd.Dir, "log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
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
		_ = cmd.Wait() // the state has it all
		p.state = cmd.ProcessState
		close(p.ended)
	}()
	if err := p.await(ready); err != nil {
		p.stop(syscall.SIGKILL)
		return nil, fmt.Errorf("%w\nthe end of its log:\n%s", err, tail(p.log))
	}
	return p, nil
}

// await asks until the program is ready or has ended.
func (p *process) await(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended by itself: %v", p.state)
		case <-ctx.Done():
			return fmt.Errorf("it did not get ready: %w", err)
		case <-ticker.C:
		}
	}
}

// stop ends the program with a signal, and if that does not help, without asking.
func (p *process) stop(signal os.Signal) {
	if err := p.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // our own child: nothing can forbid it
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.ended:
	case <-timeout.C:
		_ = p.Kill()
		<-p.ended
	}
}

func tail(path string) string {
	log, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-logTail):])
}
