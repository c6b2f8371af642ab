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
	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
)

// settleTime is how long a deletion waits before it looks for hooks a second time. The stack takes the permission to put hooks from the
// sweep just before. IAM needs seconds until that holds everywhere, and a request may be under way. A minute of a deletion is cheap: a hook
// that is put meanwhile would delay each termination for 20 minutes, because no function completes it. It is also the time until what failed
// is tried again: throttling is over then.
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

// put puts the hook on the groups that have none. If it has a new name, it removes those of the former name. It tries both twice. A sweep puts
// what is missing, but within an hour, and nodes of a group without the hook are not drained. Nothing else removes former hooks: an
// instance waits for the whole timeout of one that stays, since no function completes its action.
func (s stackHooks) put(ctx context.Context, former string) error {
	err := s.twice(ctx, s.PutMissing)
	if former == "" || former == s.Policy.Hook {
		return err
	}
	s.Policy.Hook = former
	failed := s.twice(ctx, s.RemoveOurs)
	if failed != nil {
		failed = fmt.Errorf("remove the former hook %s by hand: %w", former, failed)
	}
	return errors.Join(err, failed)
}

// twice does something, and again if that fails. It returns the last error.
func (s stackHooks) twice(ctx context.Context, do func(context.Context) ([]string, error)) error {
	_, err := do(ctx)
	if err != nil && s.settle(ctx) == nil {
		_, err = do(ctx)
	}
	return err
}

// remove removes the hooks that the stack has put, those included that a sweep puts meanwhile, and those that could not be removed at once.
func (s stackHooks) remove(ctx context.Context) error {
	_, first := s.RemoveOurs(ctx)
	if err := s.settle(ctx); err != nil {
		return errors.Join(first, err)
	}
	_, err := s.RemoveOurs(ctx)
	return err
}

func settle(ctx context.Context) error { return drain.Sleep(ctx, settleTime) }
