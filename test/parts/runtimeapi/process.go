package runtimeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// initTimeout is how long Lambda lets a process run before its first request for an invocation.
const initTimeout = 10 * time.Second

var errInitTimeout = errors.New("no request for an invocation within " + initTimeout.String())

// InitError is the error of a process that never requested an invocation.
type InitError struct {
	Cause  error
	Stderr string // everything it wrote to stderr
}

// Error returns the cause and what the process wrote to stderr.
func (e *InitError) Error() string { return fmt.Sprintf("initialize: %v\n%s", e.Cause, e.Stderr) }

// Unwrap returns the cause.
func (e *InitError) Unwrap() error { return e.Cause }

// process is one run of the bootstrap, with a runtime API of its own.
type process struct {
	cmd            *exec.Cmd
	api            *api
	stdout, stderr *pipe
	stderrText     *output // what it wrote to stderr
	began          time.Time
	used           bool          // it has received an invocation; guarded by Function.invoking
	exited         chan struct{} // closed when it has ended and its output is complete
}

// launch executes the bootstrap.
func launch(o Options, out *output) (*process, error) {
	p := &process{stderrText: &output{}, exited: make(chan struct{})}
	var err error
	if p.api, err = listen(); err != nil {
		return nil, err
	}
	if p.stdout, err = newPipe(out); err != nil {
		p.release()
		return nil, err
	}
	if p.stderr, err = newPipe(io.MultiWriter(out, p.stderrText)); err != nil {
		p.release()
		return nil, err
	}
	p.cmd = &exec.Cmd{
		Path: o.Bootstrap, Args: []string{o.Bootstrap}, Dir: o.TaskRoot, Env: o.environment(p.api.address()),
		Stdout: p.stdout.write, Stderr: p.stderr.write, SysProcAttr: diesWithParent(),
	}
	if o.Entry != "" {
		p.cmd.Path, p.cmd.Args = "/bin/sh", []string{"sh", "-c", `echo $$ >"$0" && exec "$1"`, o.Entry, o.Bootstrap}
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("execute: %w", err)
	}
	return p, nil
}

// run runs the process to its end. It locks its thread, since the kernel takes the end of the thread that started a process for
// the end of its parent.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer p.release()
	p.began = time.Now()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	for _, out := range []*pipe{p.stdout, p.stderr} {
		_ = out.write.Close() // now only the process holds it
		go out.pump()
	}
	_ = p.cmd.Wait() // the process state has the result
	p.catchUp()
	close(p.exited)
}

// catchUp passes on what the process has written so far.
func (p *process) catchUp() {
	p.stdout.empty()
	p.stderr.empty()
}

// release releases the resources of the process.
func (p *process) release() {
	p.api.close()
	for _, out := range []*pipe{p.stdout, p.stderr} {
		if out != nil {
			out.close()
		}
	}
}

// begin waits for the first request for an invocation and returns the time since exec.
func (p *process) begin(ctx context.Context) (cold time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, initTimeout, errInitTimeout)
	defer cancel()
	made, err := await(ctx, p, p.api.asks)
	if err == nil && made.failure == "" {
		return made.at.Sub(p.began), nil
	}
	p.kill()
	switch {
	case err == nil:
		err = errors.New(made.failure)
	case errors.Is(err, errExited):
		err = fmt.Errorf("%w: %s", err, p.ending())
	}
	return 0, &InitError{err, p.stderrText.String()}
}

// freeze stops the process until the next invocation, as Lambda does with an idle environment: its connections stay, its clocks go on.
// A process that has only started is not frozen: an event waits for it.
func (p *process) freeze() { p.signal(syscall.SIGSTOP) }

// thaw lets a frozen process go on.
func (p *process) thaw() { p.signal(syscall.SIGCONT) }

// signal fails only if the process has ended, which is noticed elsewhere.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if the process has ended
	<-p.exited
}

// ending returns how the process ended, such as "exit status 1" or "signal: killed".
func (p *process) ending() string { return p.cmd.ProcessState.String() }

// peakRSS returns the highest resident memory of the process, in bytes; 0 if the process is gone. The kernel's statistics of
// ended children (getrusage) do not help: they include the memory of the parent that forked them.
func (p *process) peakRSS() int64 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil || !p.alive() {
		return 0
	}
	for line := range bytes.Lines(status) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(string(line), "VmHWM: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	return 0
}

// await waits for something from the process. What the process did before its death counts.
func await[T any](ctx context.Context, p *process, done <-chan T) (T, error) {
	var none T
	select {
	case v := <-done:
		return v, nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	case <-p.exited:
	}
	select {
	case v := <-done:
		return v, nil
	default:
		return none, errExited
	}
}
