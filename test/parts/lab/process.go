package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"quiesce/test/parts/cputime"
	"quiesce/test/parts/tools"
)

const (
	// probeInterval is the time between readiness checks of a starting component: a fraction of the fastest start, without taking
	// the CPU that the start needs.
	probeInterval = 25 * time.Millisecond
	// probeTimeout bounds one check, so that a component that accepts connections too early is checked again.
	probeTimeout = 2 * time.Second
	// logTail is how many bytes of a component's log an error carries: enough for its last lines.
	logTail = 3000
)

// process is one running component.
type process struct {
	name  string
	pid   int
	log   string        // path
	ended chan struct{} // closed when it has ended
	err   error         // how it ended, never nil; valid once ended is closed
}

// command returns a command for a built tool in the lab's process group, without our environment variables.
func (l *Lab) command(ctx context.Context, tool string, args ...string) (*exec.Cmd, error) {
	path, err := tools.Path(tool)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", tool, err)
	}
	return l.program(ctx, path, args...), nil
}

// program returns such a command for any program.
func (l *Lab) program(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = l.reaper.dir
	cmd.Env = []string{"HOME=" + l.reaper.dir, "TMPDIR=" + l.reaper.dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: l.reaper.group}
	return cmd
}

// run starts a component and waits until ready returns nil. environment is added to the component's own.
func (l *Lab) run(ctx context.Context, tool string, args, environment []string, ready func(context.Context) error) error {
	cmd, err := l.command(context.Background(), tool, args...) // runs until the lab is stopped
	if err != nil {
		return fmt.Errorf("start %s: %w", tool, err)
	}
	cmd.Env = append(cmd.Env, environment...)
	p, err := l.spawn(tool, cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", tool, err)
	}
	if err := l.await(ctx, p, ready); err != nil {
		return fmt.Errorf("start %s: %w", tool, err)
	}
	return nil
}

// spawn starts a process of the lab. Its log has its name.
func (l *Lab) spawn(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, log: filepath.Join(l.logDir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("make its log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	go func() {
		if p.err = cmd.Wait(); p.err == nil {
			p.err = errors.New("with status 0")
		}
		close(p.ended)
	}()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.processes = append(l.processes, p)
	return p, nil
}

// CPU returns the CPU time of each running component, by its name. Processes of one name, such as kubelets, are added up.
func (l *Lab) CPU() map[string]time.Duration {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	times := map[string]time.Duration{}
	for _, p := range l.processes {
		times[p.name] += cputime.Of(p.pid)
	}
	return times
}

// await waits until the component is ready, until it or another one has died, or until ctx has ended.
func (l *Lab) await(ctx context.Context, p *process, ready func(context.Context) error) error {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		if err := l.died(); err != nil {
			return err
		}
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return p.explain(fmt.Errorf("%w; not ready: %w", context.Cause(ctx), err))
		case <-ticker.C:
		}
	}
}

// finish ends a process, whose end then is not an error.
func (l *Lab) finish(ctx context.Context, p *process, signal syscall.Signal) error {
	l.mutex.Lock()
	l.processes = slices.DeleteFunc(l.processes, func(other *process) bool { return other == p })
	l.mutex.Unlock()
	if err := syscall.Kill(p.pid, signal); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", p.name, context.Cause(ctx))
	}
}

// died returns which components died, in the order of their start: a later one may have died because an earlier one did.
func (l *Lab) died() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	var died []error
	for _, p := range l.processes {
		select {
		case <-p.ended:
			died = append(died, p.explain(fmt.Errorf("%s ended by itself: %w", p.name, p.err)))
		default:
		}
	}
	return errors.Join(died...)
}

// explain adds the end of the component's log to err.
func (p *process) explain(err error) error {
	return fmt.Errorf("%w\nthe end of the log of %s:\n%s", err, p.name, tail(p.log))
}

func tail(path string) string {
	log, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-logTail):])
}

// answers returns a readiness check: the URL is answered with 200.
func (l *Lab) answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := l.probes.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(response.Body)
			return fmt.Errorf("%s: %s: %s", url, response.Status, body)
		}
		return nil
	}
}

// inParallel runs all steps at once. The first failure cancels the others and is returned: the others only report their
// cancellation.
func inParallel(ctx context.Context, steps ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, step := range steps {
		group.Go(func() {
			if err := step(ctx); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
