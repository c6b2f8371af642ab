package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxCheckedHooks bounds how many groups a check asks for their hook: one request each. The whole account shares one bucket of Auto
// Scaling requests.
const maxCheckedHooks = 100

// findGroups describes our groups.
func (c *check) findGroups(ctx context.Context) (string, error) {
	var errs []error
	missing := slices.Clone(c.Policy.GroupNames)
	for group, err := range c.Groups.List(ctx, c.Policy.GroupNames...) {
		if err != nil {
			errs = append(errs, err)
		} else if !group.Deleting && c.Policy.Owns(group.Name, group.Tags) {
			c.groups = append(c.groups, group)
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == group.Name })
		}
	}
	const next = "correct autoScalingGroups in quiesce.yaml, then make deploy"
	switch err := errors.Join(errs...); {
	case err != nil:
		return "", err
	case len(missing) > 0:
		return "", &misconfigured{"there is no group " + named(missing), next}
	case len(c.groups) == 0:
		return "", &misconfigured{"no group of this account and region is ours",
			next + "; with a stack of a release, tag the group (infra/README.md)"}
	}
	return fmt.Sprintf("%d groups", len(c.groups)), nil
}

// findHooks asks whether each group has our hook. Without it, instances of the group are terminated undrained. A new group may get it yet.
func (c *check) findHooks(ctx context.Context) (string, error) {
	if len(c.groups) == 0 {
		return "", needs{"groups"}
	}
	asked := c.groups[:min(len(c.groups), maxCheckedHooks)]
	errs := c.describeHooks(ctx, asked)
	var without, awaited []string
	var failed []error
	for n, err := range errs {
		switch {
		case errors.Is(err, ErrNoHook) && asked[n].isNew(time.Now()):
			awaited = append(awaited, asked[n].Name)
		case errors.Is(err, ErrNoHook):
			without = append(without, asked[n].Name)
		case err != nil:
			failed = append(failed, err)
		}
	}
	switch {
	case len(without) > 0:
		return "", &misconfigured{
			fmt.Sprintf("%d of %d groups have no hook %s: %s", len(without), len(asked), c.Policy.Hook, named(without)),
			"add the hook to each of these groups with the command in the output HooksByHand",
		}
	case len(failed) > 0:
		return "", fmt.Errorf("%d of %d hooks: %w", len(failed), len(asked), failed[0])
	}
	groups := fmt.Sprintf("all %d groups", len(asked))
	if len(asked) < len(c.groups) {
		groups = fmt.Sprintf("the first %d of %d groups", len(asked), len(c.groups))
	}
	if len(awaited) > 0 {
		groups += ", except new ones: " + named(awaited)
	}
	return "hook " + c.Policy.Hook + " in " + groups, nil
}

// describeHooks returns one error per group; nil: it has our hook.
func (c *check) describeHooks(ctx context.Context, groups []Group) []error {
	errs := make([]error, len(groups))
	begun := inParallel(ctx, len(groups), func(n int) {
		var hook Hook
		if hook, errs[n] = c.Hooks.Describe(ctx, groups[n].Name, c.Policy.Hook); hook.Launching {
			errs[n] = ErrNoHook
		}
	})
	for n := begun; n < len(groups); n++ {
		errs[n] = context.Cause(ctx)
	}
	return errs
}

// countMessages asks the queue that events come through.
func (c *check) countMessages(ctx context.Context) (string, error) {
	if c.Queue == nil {
		return "no queue is configured", nil
	}
	waiting, inFlight, err := c.Queue.Backlog(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d messages wait, %d are in flight", waiting, inFlight), nil
}
