// Package customresource is the adapter for CloudFormation: it handles the events of the stack's custom resource, which stands for the
// hooks that quiesce puts (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html).
package customresource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-lambda-go/cfn"

	"quiesce/internal/config"
	"quiesce/internal/drain"
)

// stopTime is how long the work may take to stop when its time is over, and to say what it did not do. A request to AWS stops at once.
// Work that does not is left behind.
const stopTime = time.Second

// Handler handles the events of the custom resource.
type Handler struct {
	// Put puts the hooks, when the stack is created and when the resource's properties change. former is the name that the hooks had
	// before an update.
	Put func(ctx context.Context, former string) error
	// Remove removes the hooks, when the stack is deleted.
	Remove func(context.Context) error
	Region string
	Client *http.Client // of NewClient, except in tests
	Log    *slog.Logger
}

// Invoke handles one event, and answers CloudFormation. It returns an error only if CloudFormation has no answer: Lambda then invokes the
// function again. An event of anyone else has no effect.
func (h *Handler) Invoke(ctx context.Context, payload json.RawMessage) (any, error) {
	var event cfn.Event
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, fmt.Errorf("not an event of a custom resource: %w", err)
	}
	if err := h.check(event); err != nil {
		h.Log.Error("event refused, it is not CloudFormation's", "error", err)
		return nil, err
	}
	return nil, h.send(ctx, event.ResponseURL, h.answer(event, h.do(ctx, event)))
}

// check returns why an event cannot be CloudFormation's, as far as one can see. S3 checks the signature of the address only when the
// answer is sent. So a forged event can at most do what it says: put or remove the hooks of this stack.
func (h *Handler) check(event cfn.Event) error {
	switch event.RequestType {
	case cfn.RequestCreate, cfn.RequestUpdate, cfn.RequestDelete:
		return checkURL(event.ResponseURL, h.Region)
	}
	return fmt.Errorf("not an event of a custom resource: RequestType %.20q", event.RequestType)
}

// answer returns the answer to an event. A deployment does not fail because of a hook: the sweep puts it later, and an alarm says so
// meanwhile. A deletion fails: without the stack, nothing completes what waits on the hooks, and nothing removes them.
func (h *Handler) answer(event cfn.Event, err error) *cfn.Response {
	response := cfn.NewResponse(&event)
	response.Status, response.PhysicalResourceID = cfn.StatusSuccess, event.PhysicalResourceID
	if response.PhysicalResourceID == "" {
		response.PhysicalResourceID = event.LogicalResourceID // the same in each stack: it must never change
	}
	switch {
	case err == nil:
		h.Log.Info("hooks of the stack handled", "request", event.RequestType)
	case event.RequestType == cfn.RequestDelete:
		h.Log.Error("failed to remove hooks, the deletion of the stack fails", "error", err)
		response.Status, response.Reason = cfn.StatusFailed, "quiesce could not remove its lifecycle hooks: "+err.Error()
	default:
		h.Log.Warn("failed to put or remove hooks, the sweep puts those that are missing", "error", err)
	}
	return response
}

// do does the work of an event. It returns in time for the answer, whatever the work does.
func (h *Handler) do(ctx context.Context, event cfn.Event) error {
	if end, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-answerReserve-stopTime))
		defer cancel()
	}
	done := make(chan error, 1)
	go func() { done <- h.work(ctx, event) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stopTime):
		return errors.New("the function's time is over")
	}
}

// work does the work of an event. It turns a panic into an error.
func (h *Handler) work(ctx context.Context, event cfn.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			h.Log.Error("panic recovered", "error", drain.Short(fmt.Sprint(p)), "stack", drain.Stack())
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if event.RequestType == cfn.RequestDelete {
		return h.Remove(ctx)
	}
	former, _ := event.OldResourceProperties[config.HookProperty].(string)
	return h.Put(ctx, former)
}
