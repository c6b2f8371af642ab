package termination

import (
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

const longestDrain = 30 * time.Minute

func TestChooseReplacements_EachSituation_ChoosesInTime(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	in := func(id string, left time.Duration) ScheduledChange {
		return ScheduledChange{InstanceID: id, Code: "instance-retirement", NotBefore: now.Add(left)}
	}
	group := func(states ...string) (g Group) {
		for n, state := range states {
			g.Instances = append(g.Instances, Instance{ID: fmt.Sprint("i-", n), State: state})
		}
		return g
	}
	whole := group(inService, inService, inService)
	lacking := whole
	lacking.Missing = 1
	protected := group(inService, inService)
	protected.Instances[0].Protected = true
	busy := "waits: i-2 is terminating"
	for name, c := range map[string]struct {
		group   Group
		changes []ScheduledChange
		want    []string // instance, and the reason why it stays
	}{
		"none":               {whole, nil, nil},
		"days before":        {whole, []ScheduledChange{in("i-0", 72*time.Hour)}, []string{"i-0 is replaced from 2026-11-28T12:00:00Z"}},
		"a day before":       {whole, []ScheduledChange{in("i-0", 24*time.Hour)}, []string{"i-0 is replaced from 2026-11-26T12:00:00Z"}},
		"less than a day":    {whole, []ScheduledChange{in("i-0", 24*time.Hour-1)}, []string{"i-0 "}},
		"two in a group":     {whole, []ScheduledChange{in("i-1", 20*time.Hour), in("i-0", 21*time.Hour)}, []string{"i-1 ", "i-0 waits for i-1"}},
		"two at one time":    {whole, []ScheduledChange{in("i-1", 20*time.Hour), in("i-0", 20*time.Hour)}, []string{"i-0 ", "i-1 waits for i-0"}},
		"one terminates":     {group(inService, inService, "Terminating:Wait"), []ScheduledChange{in("i-0", 20*time.Hour)}, []string{"i-0 " + busy}},
		"one is past hooks":  {group(inService, inService, "Terminating:Proceed"), []ScheduledChange{in("i-0", 20*time.Hour)}, []string{"i-0 " + busy}},
		"one is retained":    {group(inService, inService, retained), []ScheduledChange{in("i-0", 20*time.Hour)}, []string{"i-0 "}},
		"capacity is short":  {lacking, []ScheduledChange{in("i-0", 20*time.Hour)}, []string{"i-0 waits: the group has less capacity in service than desired"}},
		"just not short":     {lacking, []ScheduledChange{in("i-0", longestDrain+replaceReserve)}, []string{"i-0 waits: the group has less capacity in service than desired"}},
		"time is short":      {lacking, []ScheduledChange{in("i-0", longestDrain+replaceReserve-1), in("i-1", time.Hour)}, []string{"i-1 ", "i-0 "}},
		"one is short":       {whole, []ScheduledChange{in("i-1", 20*time.Hour), in("i-0", time.Hour)}, []string{"i-0 ", "i-1 waits for i-0"}},
		"it has begun":       {lacking, []ScheduledChange{in("i-0", -time.Hour)}, []string{"i-0 "}},
		"an unknown time":    {lacking, []ScheduledChange{{InstanceID: "i-0"}}, []string{"i-0 waits: the group has less capacity in service than desired"}},
		"protected":          {protected, []ScheduledChange{in("i-0", 20*time.Hour), in("i-1", 21*time.Hour)}, []string{"i-0 is protected from scale-in: replaced when time is short", "i-1 "}},
		"protected, short":   {protected, []ScheduledChange{in("i-0", time.Hour)}, []string{"i-0 "}},
		"two of an instance": {whole, []ScheduledChange{in("i-0", 72*time.Hour), in("i-0", 20*time.Hour)}, []string{"i-0 "}},
	} {
		var got []string
		for _, change := range chooseReplacements(c.group, c.changes, longestDrain, now) {
			require.Equal(t, change.Reason == "", change.Replaced, name)
			got = append(got, change.InstanceID+" "+change.Reason)
		}
		require.Equal(t, c.want, got, name)
	}
}

// A drain longer than a day needs more than the usual lead.
func TestChooseReplacements_DrainOfTwoDays_BeginsBeforeTheLead(t *testing.T) {
	now := time.Now()
	change := ScheduledChange{InstanceID: "i-0", NotBefore: now.Add(49 * time.Hour)}
	require.True(t, chooseReplacements(Group{}, []ScheduledChange{change}, 48*time.Hour, now)[0].Replaced)
}

// Without a window before time is short, all instances of a group would go together, days before they must.
func TestChooseReplacements_LongDrain_OneAfterTheOther(t *testing.T) {
	now := time.Now()
	group := Group{Instances: []Instance{{ID: "i-0", State: inService}, {ID: "i-1", State: inService}}}
	for left, want := range map[time.Duration][]bool{37 * time.Hour: {true, false}, 25 * time.Hour: {true, true}, 39 * time.Hour: {false, false}} {
		chosen := chooseReplacements(group, []ScheduledChange{
			{InstanceID: "i-0", NotBefore: now.Add(left)}, {InstanceID: "i-1", NotBefore: now.Add(left)},
		}, 24*time.Hour, now)
		require.Equal(t, want, []bool{chosen[0].Replaced, chosen[1].Replaced}, left)
	}
}

// scheduledEnv has a group in service, and a retirement of our instance in so many hours.
func scheduledEnv(hours int) (*testEnv, *Handler, *fakeMetrics) {
	env, m := newTestEnv(), &fakeMetrics{}
	env.state = inService
	env.peers = []Instance{{ID: "i-0bbb", Group: "workers-a", State: inService}}
	env.scheduled = []ScheduledChange{{
		InstanceID: event.InstanceID, Code: "instance-retirement", NotBefore: time.Now().Add(time.Duration(hours) * time.Hour),
	}}
	h := env.handler()
	h.Metrics, h.Policy.OnScheduledChange = m, true
	return env, h, m
}

// awaitLook sleeps until a sweep looks at scheduled changes.
func awaitLook(h *Handler) {
	for !isTurn(h.Policy.Cluster, time.Now()) {
		time.Sleep(time.Second)
	}
}

func TestSweep_ScheduledRetirement_InstanceReplacedOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := scheduledEnv(20)
		awaitLook(h)
		report := sweepOnce(t, h)
		require.Len(t, report.ScheduledChanges, 1)
		want := env.scheduled[0]
		want.Group, want.Replaced = "workers-a", true
		require.Equal(t, want, report.ScheduledChanges[0])
		require.Equal(t, []ScheduledCounts{{Found: 1, Replaced: 1}}, m.scheduled)
		require.Equal(t, []string{"terminate i-0abc1234"}, env.effects())

		sweepOnce(t, h) // at the same time
		require.Len(t, env.effects(), 1, "it terminates already")
	})
}

// Without a clock of its own, a sweep must not look each minute, and must not miss the hour, even if it is late.
func TestSweep_ScheduledChanges_LookedAtEachHour(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, h, m := scheduledEnv(1000)
		for hour := range 20 {
			before := len(m.scheduled)
			for minute := range 60 {
				late := time.Duration((hour*7+minute*3)%10) * time.Second
				time.Sleep(late)
				sweepOnce(t, h)
				time.Sleep(time.Minute - late)
			}
			looks := len(m.scheduled) - before
			require.True(t, looks == 1 || looks == 2, "%d looks", looks)
		}
	})
	minutes := map[int]bool{}
	for n := range 100 {
		for minute := range 60 {
			if isTurn(fmt.Sprint("cluster-", n), time.Unix(int64(minute)*60, 0).UTC()) {
				minutes[minute] = true
			}
		}
	}
	require.Greater(t, len(minutes), 30, "clusters do not look together")
}

func TestSweep_ScheduledChange_NotReplacedWithReason(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testEnv, *Handler)
		reason string
		counts ScheduledCounts
	}{
		"no hook": {
			func(env *testEnv, _ *Handler) { env.errors["hook"] = []error{ErrNoHook} },
			"group workers-a has no hook quiesce: its pods would die unsignaled", ScheduledCounts{Found: 1, AtRisk: 1},
		},
		"hook for launches": {
			func(env *testEnv, _ *Handler) { env.hook.Launching = true },
			"group workers-a has no hook quiesce: its pods would die unsignaled", ScheduledCounts{Found: 1, AtRisk: 1},
		},
		"hook unknown": {
			func(env *testEnv, _ *Handler) { env.errors["hook"] = []error{errors.New("Rate exceeded")} },
			"Rate exceeded", ScheduledCounts{Found: 1, AtRisk: 1},
		},
		"shadow": {
			func(_ *testEnv, h *Handler) { h.Policy.Shadow = true }, "shadow mode: would be replaced now", ScheduledCounts{Found: 1},
		},
		"state unknown": {
			func(env *testEnv, _ *Handler) { env.errors["instance"] = []error{errors.New("Rate exceeded")} },
			"Rate exceeded", ScheduledCounts{Found: 1, AtRisk: 1},
		},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h, m := scheduledEnv(1)
			c.change(env, h)
			h.Policy.Bounds.MaxDuration = 2 * time.Hour // time is short
			awaitLook(h)
			report := sweepOnce(t, h)
			require.Len(t, report.ScheduledChanges, 1, name)
			require.Equal(t, c.reason, report.ScheduledChanges[0].Reason, name)
			require.False(t, report.ScheduledChanges[0].Replaced, name)
			require.Equal(t, []ScheduledCounts{c.counts}, m.scheduled, name)
			require.Empty(t, env.effects(), name)
		})
	}
}

// Another look was faster, or the request took effect although its answer was lost.
func TestSweep_TerminationFails_StateDecidesWhatIsSaid(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := scheduledEnv(1)
		env.errors["terminate"] = []error{errors.New("not in InService")}
		awaitLook(h)
		report := sweepOnce(t, h)
		require.Equal(t, "is already Terminating:Wait", report.ScheduledChanges[0].Reason)
		require.Empty(t, report.Errors)
		require.Equal(t, []ScheduledCounts{{Found: 1}}, m.scheduled)
	})
}

func TestChangesOfGroups_GroupsWithoutAny_NotReturned(t *testing.T) {
	env, h, _ := scheduledEnv(20)
	s := h.newSweep()
	s.groups = []Group{
		{Name: "workers-a", Instances: []Instance{env.ours()}},
		{Name: "workers-b", Instances: []Instance{{ID: "i-0bbb", State: inService}}},
		{Name: "workers-c"},
	}
	groups, ours := s.changesOfGroups(env.scheduled)
	require.Equal(t, s.groups[:1], groups)
	want := env.scheduled[0]
	want.Group = "workers-a"
	require.Equal(t, map[string][]ScheduledChange{"workers-a": {want}}, ours)
}

// Whatever its name, a cluster looks in one window of each hour, which is as long as it is said to be.
func TestIsTurn_EachName_OneWindowAnHour(t *testing.T) {
	for n := range 20 {
		name, hour := fmt.Sprint("cluster-", n), time.Unix(0, 0).UTC()
		is := func(since time.Duration) bool { return isTurn(name, hour.Add(since)) }
		var begin time.Duration
		for is(begin) || !is(begin+time.Second) { // to the last second before the window
			begin += time.Second
		}
		begin += time.Duration(sort.Search(int(time.Second), func(after int) bool { return is(begin + time.Duration(after)) }))
		require.Less(t, begin, turnInterval+turnWindow, name)
		require.True(t, is(begin), name)
		require.True(t, is(begin+turnWindow-1), name)
		require.False(t, is(begin+turnWindow), name)
		require.False(t, is(begin+turnInterval-1), name)
		require.True(t, is(begin+turnInterval), name)
	}
}

func TestSweep_SettingOff_AsksForNoScheduledChange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := scheduledEnv(1)
		h.Policy.OnScheduledChange = false
		env.failAlways("scheduled", errors.New("no permission"))
		awaitLook(h)
		require.Empty(t, sweepOnce(t, h).Errors)
		require.Empty(t, m.scheduled)
		require.Empty(t, env.effects())
	})
}

func TestSweep_ManyChanges_ListIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := scheduledEnv(1000)
		for n := range 70 {
			id := fmt.Sprintf("i-%08d", n)
			env.peers = append(env.peers, Instance{ID: id, State: inService})
			env.scheduled = append(env.scheduled, ScheduledChange{InstanceID: id, NotBefore: time.Now().Add(2000 * time.Hour)})
		}
		env.scheduled = append(env.scheduled, ScheduledChange{InstanceID: "i-0fff", NotBefore: time.Now()}) // of others
		var log strings.Builder
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		awaitLook(h)
		report := sweepOnce(t, h)
		require.Len(t, report.ScheduledChanges, maxScheduledChanges)
		require.Equal(t, maxScheduledChanges, strings.Count(log.String(), "scheduled change found"))
		require.Equal(t, event.InstanceID, report.ScheduledChanges[0].InstanceID, "the earliest")
		require.Equal(t, 71-maxScheduledChanges, report.ScheduledChangesOmitted)
		require.Equal(t, []ScheduledCounts{{Found: 71}}, m.scheduled)
	})
}

func healthEvent(ids ...string) Record {
	return Record{Claim: &Claim{Trigger: HealthEvent, InstanceIDs: ids}}
}

func TestHealthEvent_ChangeIsTrue_InstanceReplacedAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := scheduledEnv(20)
		report, err := deliver(t, h, healthEvent("i-0fff", event.InstanceID))
		require.NoError(t, err)
		require.Equal(t, StatusSwept, report.Status)
		require.Equal(t, HealthEvent, report.Trigger)
		require.Empty(t, report.Reason)
		require.Len(t, report.ScheduledChanges, 1)
		require.True(t, report.ScheduledChanges[0].Replaced)
		require.Equal(t, []ScheduledCounts{{Found: 1, Replaced: 1}}, m.scheduled)
		require.Empty(t, m.sweeps, "it is no sweep")
		require.Equal(t, []string{"terminate i-0abc1234"}, env.effects())

		report, err = deliver(t, h, healthEvent(event.InstanceID))
		require.NoError(t, err)
		require.Empty(t, report.ScheduledChanges)
		require.Len(t, env.effects(), 1)
	})
}

// Anyone who may send to the queue can write such an event.
func TestHealthEvent_NotTrueOrOff_NothingChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testEnv, *Handler)
		reason string
	}{
		"forged": {
			func(env *testEnv, _ *Handler) { env.scheduled = nil }, "AWS Health Event: EC2 has scheduled no change of these instances",
		},
		"of another instance": {
			func(env *testEnv, _ *Handler) { env.scheduled[0].InstanceID = "i-0bbb" },
			"AWS Health Event: EC2 has scheduled no change of these instances",
		},
		"off": {func(_ *testEnv, h *Handler) { h.Policy.OnScheduledChange = false }, "AWS Health Event: drain.onScheduledChange is off"},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h, m := scheduledEnv(1)
			c.change(env, h)
			report, err := deliver(t, h, healthEvent(event.InstanceID))
			require.NoError(t, err, name)
			require.Equal(t, StatusSkipped, report.Status, name)
			require.Equal(t, c.reason, report.Reason, name)
			require.Empty(t, m.scheduled, name)
			require.Empty(t, env.effects(), name)
		})
	}
}

func TestHealthEvent_EC2DoesNotAnswer_Retried(t *testing.T) {
	for _, operation := range []string{"scheduled", "groups"} {
		bubble.Test(t, func(t *testing.T) {
			env, h, _ := scheduledEnv(1)
			env.failAlways(operation, errors.New("RequestLimitExceeded"))
			env.otherGroups = nil
			h.Policy.Owns = func(string, map[string]string) bool { return operation != "groups" }
			report, err := deliver(t, h, healthEvent(event.InstanceID))
			require.ErrorAs(t, err, new(*Failed))
			require.Equal(t, StatusFailed, report.Status)
			require.Empty(t, env.effects())
		})
	}
}

// A sweep and an event, or two sweeps, look at the same time.
func TestScheduledChange_TwoLooksAtOnce_OneTermination(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := scheduledEnv(20)
		env.scheduled = append(env.scheduled, ScheduledChange{InstanceID: "i-0bbb", NotBefore: time.Now().Add(21 * time.Hour)})
		env.delay = 100 * time.Millisecond
		for range 2 {
			go func() { _, _ = h.dispatch(t.Context(), healthEvent("i-0bbb")) }()
		}
		awaitLook(h)
		sweepOnce(t, h)
		synctest.Wait()
		for _, effect := range env.effects() {
			require.Equal(t, "terminate i-0abc1234", effect, "all chose the same instance")
		}
		require.NotEmpty(t, env.effects())
	})
}
