package runtimeapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// What Lambda calls the ways in which an invocation ends without an answer of the function's.
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
	Payload      []byte        // JSON: the answer, or the error as Lambda's callers get it
	ErrorType    string        // empty when the function succeeded
	ErrorMessage string        // of the function, or of Lambda in its place
	Duration     time.Duration // until the process was ready for the next invocation, or was gone
	Cold         bool          // this was the first invocation of its process
}

// Invoke hands the payload to the process and waits until it is done with it, as it tells by asking for the next one. A
// process past the deadline is killed (TimedOut); one that dies is reported (ExitError); either way the next Invoke starts
// a new one. The error is for what Lambda's callers never see: a process that cannot start, a ctx that ends, which kills
// the process too, and ErrClosed.
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

// ready is a process that waits for an invocation: the one at hand, or a new one.
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

// invocation is one event on its way through the process.
type invocation struct {
	id       string
	payload  []byte
	began    time.Time
	timeout  time.Duration
	answered chan answer // takes the one answer
}

// answer is what the process posted: an error if failed.
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

// invoke sees an invocation through. Its error is that of ctx.
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
	if err := p.send(ctx, inv); err != nil {
		return p.failure(inv, err)
	}
	a, err := await(ctx, p, inv.answered)
	if err != nil {
		return p.failure(inv, err)
	}
	// The invocation is over when the process asks again, or dies, as it does after a panic.
	if _, err := await(ctx, p, p.api.asks); errors.Is(err, errTimedOut) {
		p.kill()
	} else if err != nil && !errors.Is(err, errExited) {
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

// failure is the outcome of an invocation that has no answer, in the words of Lambda.
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

// errorBody is how both the function and Lambda spell an error.
type errorBody struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func platformError(kind string, inv *invocation, text string) Result {
	e := errorBody{kind, fmt.Sprintf("RequestId: %s Error: %s", inv.id, text)}
	payload, _ := json.Marshal(e) // two strings: nothing to go wrong
	return Result{Payload: payload, ErrorType: e.Type, ErrorMessage: e.Message}
}

func (a answer) result() Result {
	r := Result{Payload: a.body}
	if a.failed {
		var e errorBody
		_ = json.Unmarshal(a.body, &e) // an error in another spelling has no type; Lambda calls it this
		if r.ErrorType, r.ErrorMessage = e.Type, e.Message; e.Type == "" {
			r.ErrorType = "Runtime.UnknownReason"
		}
	}
	return r
}
