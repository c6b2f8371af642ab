package runtimeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"quiesce/test/parts/cputime"
)

// defaultTimeout is the longest timeout that Lambda allows.
const defaultTimeout = 15 * time.Minute

// ErrClosed is the error of a function that was closed, or whose start context has ended.
var ErrClosed = errors.New("the function is closed")

// Options configures a function.
type Options struct {
	Bootstrap string        // the program
	Env       []string      // all its variables beside those that Lambda sets; an entry here overrides Lambda's
	TaskRoot  string        // working directory and LAMBDA_TASK_ROOT; default the bootstrap's folder
	Timeout   time.Duration // of an invocation; default 15 minutes
	Logs      io.Writer     // receives stdout and stderr as they are written; may be nil
	Entry     string        // file that gets the process ID before the program starts, such as a control group's cgroup.procs; may be empty
}

// Function is a Lambda function with one execution environment. It is safe for concurrent use; invocations queue. Its process is frozen
// after each invocation, until the next.
type Function struct {
	options Options
	output  *output

	invoking sync.Mutex // held during an invocation

	mu      sync.Mutex
	process *process // the latest; may be dead
	cold    time.Duration
	peak    int64
	closed  bool
	detach  func() bool // releases the context of Start
}

// Start starts the process and returns when it first requests an invocation. If the process dies before that or reports an init
// error, the error is an *InitError. The function runs until ctx ends or it is closed.
func Start(ctx context.Context, o Options) (*Function, error) {
	f := &Function{options: o.withDefaults(), output: &output{copy: o.Logs}, detach: func() bool { return true }}
	if _, err := f.restart(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Bootstrap, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.detach = context.AfterFunc(ctx, func() { _ = f.Close() })
	return f, nil
}

func (o Options) withDefaults() Options {
	if o.TaskRoot == "" {
		o.TaskRoot = filepath.Dir(o.Bootstrap)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return o
}

// restart replaces a dead process by a new one.
func (f *Function) restart(ctx context.Context) (*process, error) {
	p, err := launch(f.options, f.output)
	if err != nil {
		return nil, err
	}
	if err := f.adopt(p); err != nil {
		p.kill()
		return nil, err
	}
	cold, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cold = cold
	return p, nil
}

// adopt makes the process the target of Kill and Close, even before it is ready.
func (f *Function) adopt(p *process) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.process = p
	return nil
}

// present returns the latest process, which may be dead.
func (f *Function) present() (p *process, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.process, f.closed
}

// Kill ends the process with SIGKILL, like a crash, and returns when it is gone.
func (f *Function) Kill() {
	f.measure()
	p, _ := f.present()
	p.kill()
}

// Close ends the process and the function.
func (f *Function) Close() error {
	f.mu.Lock()
	f.closed = true
	f.detach()
	f.mu.Unlock()
	f.Kill()
	return nil
}

// ColdStart returns the time from the latest process's exec to its first request for an invocation.
func (f *Function) ColdStart() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cold
}

// Output returns what all processes of the function have written to stdout and stderr. It is complete up to the end of the last
// invocation or process.
func (f *Function) Output() string { return f.output.String() }

// CPU returns the CPU time of its present process, or 0 if that has ended.
func (f *Function) CPU() time.Duration {
	p, _ := f.present()
	if !p.alive() {
		return 0
	}
	return cputime.Of(p.cmd.Process.Pid)
}

// MaxRSS returns the highest resident memory of its processes that was observed, in bytes: now, before each kill and after each
// invocation. A process that dies by itself counts up to its last invocation. 0 on systems without /proc.
func (f *Function) MaxRSS() int64 {
	f.measure()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peak
}

func (f *Function) measure() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peak = max(f.peak, f.process.peakRSS())
}
