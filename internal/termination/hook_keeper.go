package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// HookKeeper keeps our hook on our groups. It changes no hook that is not marked as put by our stack.
type HookKeeper struct {
	Groups Groups
	Hooks  Hooks
	Policy Policy
	Log    *slog.Logger
}

// hookState is how our hook is on one group.
type hookState int

const (
	hookInPlace   hookState = iota
	hookMissing             // the group has none
	hookOutdated            // we put it, with other settings
	hookLaunching           // its name is that of a hook for launches
)

// errLaunching is the error of a group that has a hook of our name for launches. It is not changed: it has another use.
var errLaunching = errors.New("it is a hook for launches, and is not changed")

// look returns the state of our hook on a group.
func (k HookKeeper) look(ctx context.Context, group string) (hookState, error) {
	hook, err := k.Hooks.Describe(ctx, group, k.Policy.Hook)
	wanted := k.wanted()
	switch {
	case errors.Is(err, ErrNoHook):
		return hookMissing, nil
	case err != nil:
		return hookInPlace, err
	case hook.Launching:
		return hookLaunching, nil
	case k.isOurs(hook) && (hook.HeartbeatTimeout != wanted.HeartbeatTimeout || hook.DefaultResult != wanted.DefaultResult):
		return hookOutdated, nil
	}
	return hookInPlace, nil
}

// err returns why our hook cannot be put; nil: it can.
func (s hookState) err(hook, group string) error {
	if s == hookLaunching {
		return fmt.Errorf("hook %s of %s: %w", hook, group, errLaunching)
	}
	return nil
}

// wanted returns the settings of hooks that are put. The stack gives the same to its own hooks.
func (k HookKeeper) wanted() Hook {
	return Hook{HeartbeatTimeout: k.Policy.HeartbeatTimeout, DefaultResult: k.Policy.OnFailure, ManagedBy: k.Policy.ManagedBy}
}

// isOurs reports whether our stack has put the hook.
func (k HookKeeper) isOurs(h Hook) bool {
	return k.Policy.ManagedBy != "" && h.ManagedBy == k.Policy.ManagedBy
}

// put puts our hook on a group, unless there is one for launches in its place.
func (k HookKeeper) put(ctx context.Context, group string, found hookState) error {
	if err := found.err(k.Policy.Hook, group); err != nil {
		return err
	}
	if err := k.Hooks.Put(ctx, group, k.Policy.Hook, k.wanted()); err != nil {
		return err
	}
	k.Log.Info("lifecycle hook put", "group", group, "hook", k.Policy.Hook)
	return nil
}

// PutMissing puts our hook on each group of ours that has none, and renews those that we put with other settings. It returns the names
// of these groups. An error of one group does not affect the others.
func (k HookKeeper) PutMissing(ctx context.Context) (put []string, err error) {
	return k.onEachGroup(ctx, func(group string) (bool, error) {
		found, err := k.look(ctx, group)
		if err != nil || found == hookInPlace {
			return false, err
		}
		err = k.put(ctx, group, found)
		return err == nil, err
	})
}

// RemoveOurs removes our hook from each group of ours where our stack has put it, and returns the names of these groups. No sweep may
// run then or later: it would put them again. An error of one group does not affect the others.
func (k HookKeeper) RemoveOurs(ctx context.Context) (removed []string, err error) {
	return k.onEachGroup(ctx, func(group string) (bool, error) {
		hook, err := k.Hooks.Describe(ctx, group, k.Policy.Hook)
		switch {
		case errors.Is(err, ErrNoHook):
			return false, nil
		case err != nil || !k.isOurs(hook) || hook.Launching:
			return false, err
		}
		if err := k.Hooks.Delete(ctx, group, k.Policy.Hook); err != nil {
			return false, err
		}
		k.Log.Info("lifecycle hook removed", "group", group, "hook", k.Policy.Hook)
		return true, nil
	})
}

// onEachGroup calls do for each group of ours, a few at a time, and returns the groups that were changed.
func (k HookKeeper) onEachGroup(ctx context.Context, do func(group string) (changed bool, err error)) (changed []string, err error) {
	var groups []string
	var errs []error
	for group, err := range k.Groups.List(ctx, k.Policy.GroupNames...) {
		switch {
		case err != nil:
			errs = append(errs, err)
		case !group.Deleting && k.Policy.Owns(group.Name, group.Tags):
			groups = append(groups, group.Name)
		}
	}
	var mutex sync.Mutex
	begun := inParallel(ctx, len(groups), func(n int) {
		is, err := do(groups[n])
		mutex.Lock()
		defer mutex.Unlock()
		if is {
			changed = append(changed, groups[n])
		}
		errs = append(errs, err)
	})
	if begun < len(groups) {
		errs = append(errs, fmt.Errorf("%d of %d groups not reached: %w", len(groups)-begun, len(groups), context.Cause(ctx)))
	}
	slices.Sort(changed)
	return changed, errors.Join(errs...)
}
