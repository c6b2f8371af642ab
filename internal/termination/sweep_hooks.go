package termination

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// newGroupAge is the age up to which a group is new. It gets our hook at once, before its first instance goes. Where others put
	// hooks, they have this time: a group is created before its hook.
	newGroupAge = 10 * time.Minute
	// maxNamedGroups bounds how many groups a report names. The rest are counted.
	maxNamedGroups = 20
)

// isNew reports whether others may not have put our hook on the group yet. A group of unknown age is old.
func (g Group) isNew(now time.Time) bool { return now.Sub(g.CreatedAt) < newGroupAge }

// isHookDue reports whether this sweep looks at the hook of a group. It keeps no state: the group's name says when in each hour.
func (p Policy) isHookDue(g Group, now time.Time) bool {
	age := now.Sub(g.CreatedAt) // centuries if unknown
	switch {
	case g.Deleting:
		return false
	case g.isNew(now):
		return p.ManageHooks
	case age < newGroupAge+turnWindow:
		return true
	}
	return isTurn(g.Name, now)
}

// checkHooks finds groups without our hook: instances there are terminated undrained. In shadow mode it puts hooks too: without them
// there are no events to rehearse with, and their actions are completed at once.
func (s *sweep) checkHooks(ctx context.Context) {
	keeper := HookKeeper{Groups: s.Groups, Hooks: s.Hooks, Policy: s.Policy, Log: s.Log}
	var without []string
	s.forEach(ctx, "hook checks", len(s.hooksDue), func(n int) {
		isWithout, put, err := s.checkHook(ctx, keeper, s.hooksDue[n])
		s.addError(err)
		s.mutex.Lock()
		defer s.mutex.Unlock()
		if isWithout {
			without = append(without, s.hooksDue[n])
		}
		if put {
			s.report.HooksPut++
		}
	})
	slices.Sort(without)
	s.report.GroupsWithoutHook = len(without)
	s.report.WithoutHook = without
	if more := len(without) - maxNamedGroups; more > 0 {
		s.report.WithoutHook = append(without[:maxNamedGroups:maxNamedGroups], fmt.Sprintf("and %d more", more))
	}
}

// checkHook puts our hook on one group if it is to be there, and reports whether the group is without it now.
func (s *sweep) checkHook(ctx context.Context, keeper HookKeeper, group string) (without, put bool, err error) {
	found, err := keeper.look(ctx, group)
	if err != nil || found == hookInPlace {
		return false, false, err
	}
	without = found != hookOutdated
	if !s.Policy.ManageHooks {
		return without, false, found.err(s.Policy.Hook, group)
	}
	if err = keeper.put(ctx, group, found); err != nil {
		return without, false, err
	}
	return false, true, nil
}
