package termination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/test/parts/bubble"
)

// hookAccount is the groups of an account, each with its hooks.
type hookAccount struct {
	*testEnv
	fakeHooks

	mu        sync.Mutex
	groups    map[string]*Group
	hooks     map[string]Hook // ours, by group
	described []string        // groups whose hook was asked for
	failing   map[string]error
}

func newHookAccount() *hookAccount {
	env := newTestEnv()
	return &hookAccount{
		testEnv: env, fakeHooks: fakeHooks{env}, groups: map[string]*Group{}, hooks: map[string]Hook{}, failing: map[string]error{},
	}
}

// add adds a group that was created just now.
func (a *hookAccount) add(name string, tags map[string]string) *Group {
	a.groups[name] = &Group{Name: name, Tags: tags, CreatedAt: time.Now()}
	return a.groups[name]
}

// addOld adds a group that was created long ago, with a hook that the stack put.
func (a *hookAccount) addOld(name string, tags map[string]string) {
	a.add(name, tags).CreatedAt = time.Now().Add(-100 * time.Hour)
	a.hooks[name] = Hook{HeartbeatTimeout: 20 * time.Minute, DefaultResult: Continue}
}

func (a *hookAccount) List(_ context.Context, names ...string) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		if err := a.failing["list"]; err != nil && !yield(Group{}, err) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(a.groups)) {
			if (len(names) == 0 || slices.Contains(names, name)) && !yield(*a.groups[name], nil) {
				return
			}
		}
	}
}

func (a *hookAccount) Describe(_ context.Context, group, hook string) (Hook, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.described = append(a.described, group)
	if err := a.failing["describe "+group]; err != nil {
		return Hook{}, err
	}
	if found, is := a.hooks[group]; is && hook == "quiesce" {
		return found, nil
	}
	return Hook{}, ErrNoHook
}

func (a *hookAccount) Put(_ context.Context, group, _ string, settings Hook) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.failing["put "+group]; err != nil {
		return err
	}
	a.hooks[group] = settings
	return nil
}

func (a *hookAccount) Delete(_ context.Context, group, _ string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.failing["delete "+group]; err != nil {
		return err
	}
	delete(a.hooks, group)
	return nil
}

func (a *hookAccount) policy(groups config.Groups, manage bool) Policy {
	return Policy{
		Owns: groups.Match, GroupsByTag: len(groups.Tags) > 0, GroupNames: groups.Listed(),
		Hook: "quiesce", HeartbeatTimeout: 20 * time.Minute, OnFailure: Continue, ManageHooks: manage, ManagedBy: "quiesce-prod",
	}
}

func (a *hookAccount) handler(groups config.Groups, manage bool) *Handler {
	h := a.testEnv.handler()
	h.Groups, h.Hooks, h.Policy = a, a, a.policy(groups, manage)
	return h
}

func (a *hookAccount) keeper(groups config.Groups) HookKeeper {
	return HookKeeper{Groups: a, Hooks: a, Policy: a.policy(groups, true), Log: slog.New(slog.DiscardHandler)}
}

// hour runs the sweeps of a bit more than an hour, some a few seconds late, and adds their reports up.
func hour(t *testing.T, h *Handler) (all SweepReport) {
	t.Helper()
	for n := range 62 {
		time.Sleep(time.Minute + time.Duration(n%3-1)*5*time.Second)
		r := sweepOnce(t, h)
		all.HooksPut += r.HooksPut
		all.GroupsWithoutHook += r.GroupsWithoutHook
		all.WithoutHook = append(all.WithoutHook, r.WithoutHook...)
		all.Errors = append(all.Errors, r.Errors...)
	}
	slices.Sort(all.WithoutHook)
	all.WithoutHook = slices.Compact(all.WithoutHook)
	return all
}

var ourTag = map[string]string{"cluster": "prod"}

// namings are the ways to say that workers-a and workers-b are ours.
var namings = map[string]config.Groups{
	"name": {Names: config.Globs{"workers-a", "workers-b"}},
	"glob": {Names: config.Globs{"workers-?"}},
	"tag":  {Tags: []config.Tag{{Key: "cluster", Value: "prod"}}},
}

// onEachNaming runs a test for each way of naming groups, with manageHooks on and off. The group workers-a is there from the start, and
// so is a group of others, which nothing may touch.
func onEachNaming(t *testing.T, test func(t *testing.T, a *hookAccount, h *Handler, naming string, manage bool)) {
	for naming, groups := range namings {
		for _, manage := range []bool{true, false} {
			t.Run(fmt.Sprint(naming, ", manageHooks ", manage), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					a := newHookAccount()
					a.addOld("workers-a", ourTag)
					a.add("theirs", map[string]string{"cluster": "staging"})
					test(t, a, a.handler(groups, manage), naming, manage)
					require.NotContains(t, a.described, "theirs")
					require.NotContains(t, a.hooks, "theirs")
				})
			})
		}
	}
}

var ourHook = Hook{HeartbeatTimeout: 20 * time.Minute, DefaultResult: Continue, ManagedBy: "quiesce-prod"}

func TestHookCheck_HooksInPlace_AskedOnceAnHour(t *testing.T) {
	onEachNaming(t, func(t *testing.T, a *hookAccount, h *Handler, _ string, _ bool) {
		report := hour(t, h)
		require.Zero(t, report.GroupsWithoutHook)
		require.Zero(t, report.HooksPut)
		require.Empty(t, report.Errors)
		require.NotEmpty(t, a.described)
		require.LessOrEqual(t, len(a.described), 4, "a few of them twice")
		require.Empty(t, a.hooks["workers-a"].ManagedBy, "it is the stack's own")
	})
}

// A managed node group that is replaced has a new group, which silently had no hook.
func TestHookCheck_GroupAppears_GetsHookOrIsNamed(t *testing.T) {
	onEachNaming(t, func(t *testing.T, a *hookAccount, h *Handler, _ string, manage bool) {
		sweepOnce(t, h)
		a.add("workers-b", ourTag)
		first := sweepOnce(t, h)
		require.Zero(t, first.GroupsWithoutHook, "others may still put it")
		if manage {
			require.Equal(t, 1, first.HooksPut)
			require.Equal(t, ourHook, a.hooks["workers-b"])
			report := hour(t, h)
			require.Zero(t, report.HooksPut)
			require.Zero(t, report.GroupsWithoutHook)
			return
		}
		for n := range 12 {
			time.Sleep(time.Minute)
			if report := sweepOnce(t, h); report.GroupsWithoutHook > 0 {
				require.GreaterOrEqual(t, n, 9)
				require.Equal(t, []string{"workers-b"}, report.WithoutHook)
				require.NotContains(t, a.hooks, "workers-b")
				return
			}
		}
		require.Fail(t, "it was never named")
	})
}

func TestHookCheck_GroupLosesHook_GetsItBackOrIsNamedEachHour(t *testing.T) {
	onEachNaming(t, func(t *testing.T, a *hookAccount, h *Handler, _ string, manage bool) {
		hour(t, h)
		delete(a.hooks, "workers-a")
		report := hour(t, h)
		if manage {
			require.Equal(t, 1, report.HooksPut)
			require.Zero(t, report.GroupsWithoutHook)
			require.Equal(t, ourHook, a.hooks["workers-a"])
			return
		}
		for range 3 {
			require.Equal(t, []string{"workers-a"}, report.WithoutHook)
			require.NotZero(t, report.GroupsWithoutHook)
			require.Zero(t, report.HooksPut)
			report = hour(t, h)
		}
		a.hooks["workers-a"] = Hook{}
		require.Zero(t, hour(t, h).GroupsWithoutHook)
	})
}

// A group cannot be renamed: it is replaced by one of another name.
func TestHookCheck_GroupRenamed_FoundByGlobOrTag(t *testing.T) {
	onEachNaming(t, func(t *testing.T, a *hookAccount, h *Handler, naming string, manage bool) {
		hour(t, h)
		delete(a.groups, "workers-a")
		delete(a.hooks, "workers-a")
		a.add("workers-2", ourTag)
		report := hour(t, h)
		switch {
		case naming == "name":
			require.NotContains(t, a.described, "workers-2", "it is another group")
			require.NotContains(t, a.hooks, "workers-2")
			require.Zero(t, report.GroupsWithoutHook)
		case manage:
			require.Equal(t, 1, report.HooksPut)
			require.Equal(t, ourHook, a.hooks["workers-2"])
		default:
			require.Equal(t, []string{"workers-2"}, report.WithoutHook)
		}
		require.NotContains(t, report.WithoutHook, "workers-a")
		require.Empty(t, report.Errors)
	})
}

func TestHookCheck_GroupDeleted_NotAskedFor(t *testing.T) {
	onEachNaming(t, func(t *testing.T, a *hookAccount, h *Handler, _ string, _ bool) {
		a.groups["workers-a"].Deleting = true
		delete(a.hooks, "workers-a")
		require.Zero(t, hour(t, h).GroupsWithoutHook)
		delete(a.groups, "workers-a")
		report := hour(t, h)
		require.Zero(t, report.GroupsWithoutHook)
		require.Zero(t, report.HooksPut)
		require.Empty(t, report.Errors)
		require.Empty(t, a.described)
	})
}

func TestHookCheck_TagRemoved_NotTouchedAnyMore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		a.addOld("workers-a", ourTag)
		h := a.handler(namings["tag"], true)
		a.groups["workers-a"].Tags = nil
		delete(a.hooks, "workers-a")
		require.Zero(t, hour(t, h).HooksPut)
		require.Empty(t, a.described)
	})
}

func TestHookCheck_PutFails_GroupStaysCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		a.add("workers-b", ourTag)
		a.failing["put workers-b"] = errors.New("AccessDenied")
		h, m := a.handler(namings["tag"], true), &fakeMetrics{}
		h.Metrics = m
		var log bytes.Buffer
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		report := sweepOnce(t, h)
		require.Equal(t, []string{"workers-b"}, report.WithoutHook)
		require.Equal(t, []string{"AccessDenied"}, report.Errors)
		require.Zero(t, report.HooksPut)
		require.Equal(t, 1, m.sweeps[0].GroupsWithoutHook)
		require.Contains(t, log.String(), "level=WARN msg=swept")
	})
}

func TestHookCheck_NotDescribed_NotTakenForMissing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		a.add("workers-b", ourTag)
		a.failing["describe workers-b"] = errors.New("Rate exceeded")
		report := sweepOnce(t, a.handler(namings["tag"], true))
		require.Zero(t, report.GroupsWithoutHook)
		require.Zero(t, report.HooksPut)
		require.Equal(t, []string{"Rate exceeded"}, report.Errors)
	})
}

// Somebody needs a hook for launches that has our name.
func TestHookCheck_HookForLaunches_CountedAndNotOverwritten(t *testing.T) {
	for _, manage := range []bool{true, false} {
		bubble.Test(t, func(t *testing.T) {
			a := newHookAccount()
			a.addOld("workers-a", ourTag)
			a.hooks["workers-a"] = Hook{Launching: true, ManagedBy: "quiesce-prod"}
			report := hour(t, a.handler(namings["tag"], manage))
			require.NotZero(t, report.GroupsWithoutHook)
			require.Contains(t, report.Errors, "hook quiesce of workers-a: it is a hook for launches, and is not changed")
			require.True(t, a.hooks["workers-a"].Launching)
		})
	}
}

func TestHookCheck_SettingsChanged_OurHookIsRenewed(t *testing.T) {
	for by, renewed := range map[string]int{"quiesce-prod": 1, "": 0, "quiesce-staging": 0} {
		bubble.Test(t, func(t *testing.T) {
			a := newHookAccount()
			a.addOld("workers-a", ourTag)
			old := Hook{HeartbeatTimeout: time.Hour, DefaultResult: Abandon, ManagedBy: by}
			a.hooks["workers-a"] = old
			report := hour(t, a.handler(namings["tag"], false))
			require.Zero(t, report.GroupsWithoutHook, by)
			require.Equal(t, old, a.hooks["workers-a"], by)
			report = hour(t, a.handler(namings["tag"], true))
			require.Zero(t, report.GroupsWithoutHook, by)
			require.Equal(t, renewed, report.HooksPut, by)
			require.Equal(t, by == "quiesce-prod", a.hooks["workers-a"] == ourHook, by)
		})
	}
}

// Without hooks there are no events to rehearse with.
func TestHookCheck_ShadowMode_PutsHooks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		a.add("workers-b", ourTag)
		h := a.handler(namings["tag"], true)
		h.Policy.Shadow = true
		require.Equal(t, 1, sweepOnce(t, h).HooksPut)
	})
}

func TestHookCheck_ManyGroups_NamedThenCountedAndSpreadOverTheHour(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		for n := range 300 {
			a.add(fmt.Sprint("workers-", n), ourTag)
		}
		h := a.handler(namings["tag"], true)
		for n := range 300 {
			a.failing[fmt.Sprint("put workers-", n)] = errors.New("AccessDenied")
		}
		report := sweepOnce(t, h)
		require.Equal(t, 300, report.GroupsWithoutHook)
		require.Len(t, report.WithoutHook, maxNamedGroups+1)
		require.Equal(t, "and 280 more", report.WithoutHook[maxNamedGroups])
		time.Sleep(time.Hour)
		for range 60 {
			time.Sleep(time.Minute)
			a.described = nil
			sweepOnce(t, h)
			require.Less(t, len(a.described), 30)
		}
	})
}

func TestHookCheck_GroupsAtTheLimit_AllNamedNoneCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		for n := range maxNamedGroups {
			name := fmt.Sprint("workers-", n)
			a.add(name, ourTag)
			a.failing["put "+name] = errors.New("AccessDenied")
		}
		require.Equal(t, slices.Sorted(maps.Keys(a.groups)), sweepOnce(t, a.handler(namings["tag"], true)).WithoutHook)
	})
}

func TestHookCheck_ClusterUnreachable_HooksPutAllTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		a.add("workers-b", ourTag)
		a.failAlways("connect", errors.New("no route to host"))
		require.Equal(t, 1, sweepOnce(t, a.handler(namings["tag"], true)).HooksPut)
	})
}

func TestHookKeeper_PutMissing_EachGroupThatNeedsIt(t *testing.T) {
	for naming, groups := range namings {
		a := newHookAccount()
		a.addOld("workers-a", ourTag)
		a.add("workers-b", ourTag)
		a.add("theirs", nil)
		put, err := a.keeper(groups).PutMissing(t.Context())
		require.NoError(t, err, naming)
		require.Equal(t, []string{"workers-b"}, put, naming)
		require.Equal(t, ourHook, a.hooks["workers-b"], naming)
		put, err = a.keeper(groups).PutMissing(t.Context())
		require.NoError(t, err, naming)
		require.Empty(t, put, naming)
	}
}

func TestHookKeeper_RemoveOurs_OnlyWhatOurStackPut(t *testing.T) {
	for naming, groups := range namings {
		a := newHookAccount()
		a.addOld("workers-a", ourTag)
		a.add("workers-b", ourTag)
		a.add("theirs", nil)
		a.hooks["theirs"] = ourHook // whoever put it there, it is none of our groups
		_, err := a.keeper(groups).PutMissing(t.Context())
		require.NoError(t, err, naming)
		removed, err := a.keeper(groups).RemoveOurs(t.Context())
		require.NoError(t, err, naming)
		require.Equal(t, []string{"workers-b"}, removed, naming)
		require.Equal(t, []string{"theirs", "workers-a"}, slices.Sorted(maps.Keys(a.hooks)), naming)
		removed, err = a.keeper(groups).RemoveOurs(t.Context())
		require.NoError(t, err, naming)
		require.Empty(t, removed, naming)
	}
	a := newHookAccount()
	a.addOld("workers-b", ourTag)
	a.hooks["workers-b"] = Hook{Launching: true, ManagedBy: "quiesce-prod"} // somebody needs it now
	a.addOld("workers-a", ourTag)                                           // by hand, without a mark
	removed, err := a.keeper(namings["tag"]).RemoveOurs(t.Context())
	require.NoError(t, err)
	require.Empty(t, removed)
	unnamed := a.keeper(namings["tag"])
	unnamed.Policy.ManagedBy = ""
	removed, err = unnamed.RemoveOurs(t.Context())
	require.NoError(t, err)
	require.Empty(t, removed)
}

func TestHookKeeper_OneGroupFails_OthersAreDone(t *testing.T) {
	a := newHookAccount()
	for n := range 30 {
		a.add(fmt.Sprintf("workers-%02d", n), ourTag)
	}
	a.failing["list"] = errors.New("page lost")
	a.failing["put workers-03"] = errors.New("workers-03: AccessDenied")
	a.failing["describe workers-07"] = errors.New("workers-07: Rate exceeded")
	put, err := a.keeper(namings["tag"]).PutMissing(t.Context())
	require.Len(t, put, 28)
	for _, text := range []string{"page lost", "workers-03: AccessDenied", "workers-07: Rate exceeded"} {
		require.ErrorContains(t, err, text)
	}
	a.failing = map[string]error{"delete workers-05": errors.New("workers-05: AccessDenied")}
	removed, err := a.keeper(namings["tag"]).RemoveOurs(t.Context())
	require.Len(t, removed, 27)
	require.ErrorContains(t, err, "workers-05: AccessDenied")
	require.Equal(t, 1, strings.Count(err.Error(), "workers"))
}

func TestHookKeeper_TimeIsOver_SaysHowManyAreLeft(t *testing.T) {
	a := newHookAccount()
	a.add("workers-a", ourTag)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("time is over"))
	put, err := a.keeper(namings["tag"]).PutMissing(ctx)
	require.Empty(t, put)
	require.EqualError(t, err, "1 of 1 groups not reached: time is over")
}

// slowHooks answers late, whatever the context says.
type slowHooks struct {
	Hooks
	takes time.Duration
}

func (s slowHooks) Describe(ctx context.Context, group, hook string) (Hook, error) {
	time.Sleep(s.takes)
	return s.Hooks.Describe(ctx, group, hook)
}

func TestHookKeeper_TimeEndsMeanwhile_GroupsNotReachedAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := newHookAccount()
		for n := range sweepConcurrency + 2 {
			a.add(fmt.Sprintf("workers-%02d", n), ourTag)
		}
		keeper := a.keeper(namings["tag"])
		keeper.Hooks = slowHooks{a, 2 * time.Second}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("time is over"))
		defer cancel()
		put, err := keeper.PutMissing(ctx)
		require.Len(t, put, sweepConcurrency)
		require.EqualError(t, err, fmt.Sprintf("2 of %d groups not reached: time is over", sweepConcurrency+2))
	})
}
