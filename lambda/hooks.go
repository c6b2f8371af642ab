package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/customresource"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
)

// settleTime is how long a deletion waits before it looks for hooks a second time. The stack takes the permission to put hooks from the
// sweep just before. IAM needs seconds until that holds everywhere, and a request may be under way. A minute of a deletion is cheap: a hook
// that is put meanwhile would delay each termination for 20 minutes, because no function completes it.
const settleTime = time.Minute

// stackHooks puts and removes the hooks of a stack, for the stack's custom resource.
type stackHooks struct {
	termination.HookKeeper
	settle func(context.Context) error
}

// newHooksHandler returns the handler of the function that puts and removes hooks. It needs no cluster and no queue.
func newHooksHandler(ctx context.Context, getenv func(string) string) (*customresource.Handler, error) {
	log := newLog(os.Stdout)
	settings, err := config.Load(getenv)
	if err != nil {
		return nil, err
	}
	sdk, err := wire.LoadSDK(ctx)
	if err != nil {
		return nil, err
	}
	hooks := newStackHooks(settings, sdk, log)
	return &customresource.Handler{
		Put: hooks.put, Remove: hooks.remove, Region: sdk.Region, Client: customresource.NewClient(), Log: log,
	}, nil
}

func newStackHooks(settings config.Config, sdk aws.Config, log *slog.Logger) stackHooks {
	return stackHooks{termination.HookKeeper{
		Groups: asg.NewGroups(sdk), Hooks: asg.NewHooks(sdk), Policy: wire.Policy(settings), Log: log,
	}, settle}
}

// put puts the hook on the groups that have none. If it has a new name, it removes those of the former name, and tries that twice: nothing else
// does. An instance waits for the whole timeout of a hook that stays, since no function completes its action.
func (s stackHooks) put(ctx context.Context, former string) error {
	_, err := s.PutMissing(ctx)
	if former == "" || former == s.Policy.Hook {
		return err
	}
	s.Policy.Hook = former
	_, failed := s.RemoveOurs(ctx)
	if failed != nil && s.settle(ctx) == nil {
		_, failed = s.RemoveOurs(ctx)
	}
	if failed != nil {
		failed = fmt.Errorf("remove the former hook %s by hand: %w", former, failed)
	}
	return errors.Join(err, failed)
}

// remove removes the hooks that the stack has put, those included that a sweep puts meanwhile.
func (s stackHooks) remove(ctx context.Context) error {
	_, err := s.RemoveOurs(ctx)
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	_, err = s.RemoveOurs(ctx)
	return err
}

func settle(ctx context.Context) error {
	select {
	case <-time.After(settleTime):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
