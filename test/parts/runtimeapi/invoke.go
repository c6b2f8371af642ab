package runtimeapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Lambda's error types for invocations that end without an answer of the function.
const (
	TimedOut  = "Sandbox.Timedout"
	ExitError = "Runtime.ExitError"
)

var (
	errTimedOut = errors.New("the invocation has timed out")
	errExited   = errors.New("the process has exited")
)

// Result is the outcome of an invocation.
type Result struct {
	Payload      []byte        // JSON: the answer, or the error in the form that Lambda's callers get
	ErrorType    string        // empty if the function succeeded
	ErrorMessage string        // from the function, or from Lambda
	Duration     time.Duration // until the process was ready for the next invocation, or was gone
	Cold         bool          // the first invocation of its process
}

// Invoke passes the payload to the process and waits until the process requests the next invocation. A process that reaches the
// deadline is killed (TimedOut); one that dies is reported (ExitError); in both cases the next Invoke starts a new one. The error
// is for what Lambda's callers never see: a process that cannot start, a ctx that ends (which also kills the process), and
// ErrClosed.
func (f *Function) Invoke(ctx context.Context, payload []byte) (Result, error) {
	f.invoking.Lock()
	defer f.invoking.Unlock()
	p, err := f.ready(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("invoke: %w", err)
	}
	result, err := p.invoke(ctx, newInvocation(payload, f.options.Timeout))
	f.measure()
	p.catchUp()
	if err != nil {
		p.kill()
		return Result{}, fmt.Errorf("invoke: %w", err)
	}
	return result, nil
}

// ready returns an idle process: the present one, or a new one.
func (f *Function) ready(ctx context.Context) (*process, error) {
	p, closed := f.present()
	if closed {
		return nil, ErrClosed
	}
	if p.alive() {
		return p, nil
	}
	return f.restart(ctx)
}

// invocation is one event that the process handles.
type invocation struct {
	id       string
	payload  []byte
	began    time.Time
	timeout  time.Duration
	answered chan answer // receives the only answer
}

// answer is what the process posted; failed means an error.
type answer struct {
	body   []byte
	failed bool
}

func newInvocation(payload []byte, timeout time.Duration) *invocation {
	return &invocation{
		id: rand.Text(), payload: payload,
		began: time.Now(), timeout: timeout,
		answered: make(chan answer, 1),
	}
}

func (inv *invocation) deadline() time.Time { return inv.began.Add(inv.timeout) }

// invoke runs an invocation to its end. Its error is that of ctx.
func (p *process) invoke(ctx context.Context, inv *invocation) (Result, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, inv.deadline(), errTimedOut)
	defer cancel()
	cold := !p.used
	p.used = true
	result, err := p.outcome(ctx, inv)
	result.Cold, result.Duration = cold, time.Since(inv.began)
	return result, err
}

func (p *process) outcome(ctx context.Context, inv *invocation) (Result, error) {
	p.api.begin(inv)
	p.thaw()
	if err := p.send(ctx, inv); err != nil {
		return p.failure(inv, err)
	}
	a, err := await(ctx, p, inv.answered)
	if err != nil {
		return p.failure(inv, err)
	}
	// The invocation is over when the process requests the next one, or dies, as it does after a panic.
	switch _, err := await(ctx, p, p.api.asks); {
	case err == nil:
		p.freeze()
	case errors.Is(err, errTimedOut):
		p.kill()
	case !errors.Is(err, errExited):
		return Result{}, err
	}
	return a.result(), nil
}

func (p *process) send(ctx context.Context, inv *invocation) error {
	select {
	case p.api.work <- inv:
		return nil
	case <-p.exited:
		return errExited
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failure returns Lambda's result of an invocation without an answer.
func (p *process) failure(inv *invocation, why error) (Result, error) {
	switch {
	case errors.Is(why, errTimedOut):
		p.kill()
		return platformError(TimedOut, inv, fmt.Sprintf("Task timed out after %.2f seconds", inv.timeout.Seconds())), nil
	case errors.Is(why, errExited):
		return platformError(ExitError, inv, "Runtime exited with error: "+p.ending()), nil
	default:
		return Result{}, why
	}
}

// errorBody is the form of an error of the function or of Lambda.
type errorBody struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func platformError(kind string, inv *invocation, text string) Result {
	e := errorBody{kind, fmt.Sprintf("RequestId: %s Error: %s", inv.id, text)}
	payload, _ := json.Marshal(e) // two strings: encoding cannot fail
	return Result{Payload: payload, ErrorType: e.Type, ErrorMessage: e.Message}
}

func (a answer) result() Result {
	r := Result{Payload: a.body}
	if a.failed {
		var e errorBody
		_ = json.Unmarshal(a.body, &e) // an error in another form has no type; Lambda calls it this
		if r.ErrorType, r.ErrorMessage = e.Type, e.Message; e.Type == "" {
			r.ErrorType = "Runtime.UnknownReason"
		}
	}
	return r
}
