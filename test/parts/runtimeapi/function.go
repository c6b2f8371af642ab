package runtimeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"
)

// defaultTimeout is the most that Lambda grants an invocation.
const defaultTimeout = 15 * time.Minute

// ErrClosed is the error of a function whose time is over: it was closed, or the context of its start has ended.
var ErrClosed = errors.New("the function is closed")

// Options say what to run, and how.
type Options struct {
	Bootstrap string        // the program
	Env       []string      // its whole environment, but for what Lambda itself sets; an entry here wins over Lambda's
	TaskRoot  string        // its working directory and LAMBDA_TASK_ROOT; the bootstrap's own folder unless given
	Timeout   time.Duration // how long an invocation may take; 15 minutes unless given
	Logs      io.Writer     // gets what it writes to stdout and stderr, as it is written; may be nil
	Entry     string        // file that takes its process id before it begins, such as a control group's cgroup.procs; may be empty
}

// Function is a Lambda function with one execution environment. It is safe for concurrent use; invocations queue.
type Function struct {
	options Options
	output  *output

	invoking sync.Mutex // held by the one invocation there is

	mu      sync.Mutex
	process *process // the latest; it may be dead
	cold    time.Duration
	peak    int64
	closed  bool
	detach  func() bool // lets go of the context of Start
}

// Start starts the process and returns when it first asks for an invocation. If it dies before that, or reports that it
// cannot begin, the error is an *InitError. The function lives until ctx ends or it is closed.
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

// restart puts a new process in the place of a dead one.
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

// adopt makes the process the one that Kill and Close mean, even before it is ready.
func (f *Function) adopt(p *process) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.process = p
	return nil
}

// present is the latest process, which may be dead.
func (f *Function) present() (p *process, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.process, f.closed
}

// Kill ends the process with SIGKILL, as a crash would, and returns when it is gone.
func (f *Function) Kill() {
	f.measure()
	p, _ := f.present()
	p.kill()
}

// Close ends the process, and with it the function.
func (f *Function) Close() error {
	f.mu.Lock()
	f.closed = true
	f.detach()
	f.mu.Unlock()
	f.Kill()
	return nil
}

// ColdStart is how long the latest process took from its exec to its first request for an invocation.
func (f *Function) ColdStart() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cold
}

// Output is what the function has written to stdout and stderr, over all its processes: all of it as of the last
// invocation's end or the last process' death, and what has come in since.
func (f *Function) Output() string { return f.output.String() }

// MaxRSS is the most resident memory in bytes that any of its processes was seen to have had: looked up now, before each
// kill and after each invocation, so that a process which dies by itself is counted up to its last invocation. 0 where
// the system has no /proc.
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
