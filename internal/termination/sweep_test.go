package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// lostEventEnv returns an environment whose instance has waited for ten minutes, because its event was lost.
func lostEventEnv() *testEnv {
	env := newTestEnv()
	env.activities = map[string]time.Time{event.InstanceID: time.Now().Add(-10 * time.Minute)}
	return env
}

// resentEvent is the event that a sweep sends: without a token, and without a time, which only Auto Scaling's own event knows.
var resentEvent = encode(Termination{Group: event.Group, Hook: event.Hook, InstanceID: event.InstanceID})

// trySweep runs one sweep.
func trySweep(t *testing.T, h *Handler) (SweepReport, error) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &Request{Action: ActionSweep}}}} }
	h.EncodeEvent = encode
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	return answer.(SweepReport), err
}

func sweepOnce(t *testing.T, h *Handler) SweepReport {
	t.Helper()
	report, err := trySweep(t, h)
	require.NoError(t, err)
	require.Equal(t, StatusSwept, report.Status)
	return report
}

// Auto Scaling's events are best effort. Without a sweep, an instance whose event is lost would wait until its hook runs out, and be
// terminated undrained.
func TestSweep_LostEvent_ResentAndInstanceKeptAlive(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		h, m := env.withQueue()
		report := sweepOnce(t, h)
		require.Equal(t, []string{resentEvent}, m.sent)
		require.Len(t, env.heartbeats, 1)
		require.Empty(t, env.heartbeats[0].termination.Token)
		require.Equal(t, 1, report.Groups)
		require.Equal(t, 1, report.Waiting)
		require.Zero(t, report.Draining)
		require.Equal(t, 1, report.Heartbeats)
		require.Equal(t, 1, report.EventsResent)
		require.Equal(t, []string{}, report.Errors)
		require.Empty(t, env.effects(), "a sweep never drains")
	})
}

func TestSweep_NothingWaits_DoesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "InService"
		h, m := env.withQueue()
		env.failAlways("backlog", errors.New("not to be asked"))
		env.failAlways("activities", errors.New("not to be asked"))
		env.failAlways("hook", errors.New("not to be asked"))
		report := sweepOnce(t, h)
		require.Empty(t, report.Errors)
		require.Empty(t, m.sent)
		require.Empty(t, env.heartbeats)
	})
}

func TestSweep_OtherInstances_NotResent(t *testing.T) {
	for _, c := range []struct {
		name       string
		change     func(*testEnv, *fakeQueue)
		heartbeats int
	}{
		{"an instance that is being drained", func(env *testEnv, _ *fakeQueue) { env.heldLeases = []string{event.InstanceID} }, 0},
		{"one whose event may yet come", func(env *testEnv, _ *fakeQueue) {
			env.activities[event.InstanceID] = time.Now().Add(-lostAge + time.Second)
		}, 1},
		{"one whose hook runs out", func(env *testEnv, _ *fakeQueue) {
			env.activities[event.InstanceID] = time.Now().Add(-env.hook.GlobalTimeout)
		}, 1},
		{"one that waits on another hook", func(env *testEnv, _ *fakeQueue) { env.failAlways("heartbeat", ErrNoActiveAction) }, 0},
		{"one of a group without our hook", func(env *testEnv, _ *fakeQueue) { env.failAlways("hook", ErrNoHook) }, 0},
		{"one past the wait state", func(env *testEnv, _ *fakeQueue) { env.state = "Terminating:Proceed" }, 0},
		{"any, while messages wait", func(_ *testEnv, m *fakeQueue) { m.waiting = 1 }, 1},
		{"one whose message may be in flight", func(env *testEnv, m *fakeQueue) {
			env.activities[event.InstanceID], m.inFlight = time.Now().Add(time.Second-overdueAge), 1
		}, 1},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			h, m := env.withQueue()
			c.change(env, m)
			report := sweepOnce(t, h)
			require.Empty(t, m.sent, c.name)
			require.Empty(t, report.Errors, c.name)
			require.Equal(t, c.heartbeats, report.Heartbeats, c.name)
		})
	}
}

// An instance that is drained can have a second message, such as that of its Spot interruption. It must not hide a lost event.
func TestSweep_MessageOfAnotherInstanceIsHeld_OverdueEventResent(t *testing.T) {
	for age, want := range map[time.Duration]int{
		overdueAge - time.Second: 0, overdueAge: 1, overdueAge + turnWindow: 0, 2*overdueAge + time.Minute: 1, 3 * overdueAge: 0, 4 * overdueAge: 1,
	} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			env.activities[event.InstanceID] = time.Now().Add(-age)
			env.heldLeases = []string{"i-0another"}
			h, m := env.withQueue()
			m.inFlight = 2 // that of the other's drain, and the one that waits for it
			require.Equal(t, want, sweepOnce(t, h).EventsResent, age)
		})
	}
}

func TestHasLostEvents_QueueBacklog_Decides(t *testing.T) {
	for _, c := range []struct {
		instances, inFlight, drains int
		want                        bool
	}{
		{1, 0, 0, true},
		{1, 1, 0, false}, // the one in flight failed and is retried
		{1, 1, 1, true},  // the one in flight belongs to a running drain
		{1, 0, 3, true},  // drains whose events came directly have no message
		{2, 1, 0, true},  // one of them, at least
		{2, 5, 3, false},
		{0, 0, 0, false},
	} {
		require.Equal(t, c.want, hasLostEvents(c.instances, c.inFlight, c.drains), "%+v", c)
	}
}

// An instance whose drain fails again and again is not held in between. If its event were sent again each minute, there would soon be as
// many messages, each of which fails as often.
func TestSweep_FailingInstance_NotResentEachMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		h, m := env.withQueue()
		m.inFlight = 1
		var resentAt []int
		for minute := 10; minute < 40; minute++ {
			report := sweepOnce(t, h)
			require.Equal(t, 1, report.Heartbeats)
			if report.EventsResent > 0 {
				resentAt = append(resentAt, minute)
			}
			time.Sleep(time.Minute)
		}
		require.Equal(t, []int{10, 11, 20, 21}, resentAt, "a turn is long enough for two sweeps")
		require.Len(t, m.sent, 4)
	})
}

func TestCountDrains_EscortLease_NotCounted(t *testing.T) {
	s := &sweep{leases: map[string]LeaseInfo{"i-0abc1234": {Held: true}, "i-0free": {}, "quiesce-pooler-7": {Held: true}}}
	require.Equal(t, 1, s.countDrains())
}

func TestSweep_NoQueue_OnlyHeartbeats(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		report := sweepOnce(t, env.handler())
		require.Equal(t, 1, report.Heartbeats)
		require.Zero(t, report.EventsResent)
		require.Empty(t, report.Errors)
	})
}

// While the cluster is unreachable, no invocation drains. The instances must be kept alive meanwhile.
func TestSweep_ClusterUnreachable_StillHeartbeats(t *testing.T) {
	for _, step := range []string{"connect", "leases"} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			env.failAlways(step, errors.New("no route to host"))
			h, m := env.withQueue()
			report := sweepOnce(t, h)
			require.Equal(t, 1, report.Heartbeats)
			require.Empty(t, m.sent, "another invocation may drain it")
			require.Equal(t, []string{"no route to host"}, report.Errors)
		})
	}
}

func TestSweep_OneGroupFails_OthersAreSwept(t *testing.T) {
	for _, step := range []string{"hook-workers-b", "heartbeat-i-0bbb"} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			env.otherGroups = []Group{{Name: "workers-b", Instances: []Instance{{ID: "i-0bbb", State: "Terminating:Wait"}}}}
			env.activities["i-0bbb"] = env.activities[event.InstanceID]
			h, m := env.withQueue()
			h.Policy.Owns = func(string, map[string]string) bool { return true }
			env.failAlways(step, errors.New("Rate exceeded"))
			report := sweepOnce(t, h)
			require.Equal(t, 2, report.Waiting)
			require.Equal(t, []string{resentEvent}, m.sent)
			require.Equal(t, []string{"Rate exceeded"}, report.Errors)
		})
	}
}

func TestSweep_GroupPageFails_FailsOnlyIfAllDo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		env.errors["groups"] = []error{errors.New("Rate exceeded")}
		env.otherGroups = []Group{{Name: "workers-b"}}
		h, m := env.withQueue()
		report := sweepOnce(t, h)
		require.Len(t, m.sent, 1)
		require.Equal(t, []string{"Rate exceeded"}, report.Errors)

		env.failAlways("groups", errors.New("AccessDenied"))
		h.Policy.GroupNames = []string{"none"}
		report, err := trySweep(t, h)
		var failed *Failed
		require.ErrorAs(t, err, &failed)
		require.Equal(t, StatusFailed, report.Status)
	})
}

func TestSweep_OtherGroups_NotTouched(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		env.otherGroups = []Group{{Name: "theirs", Instances: []Instance{{ID: "i-0fff", State: "Terminating:Wait"}}}}
		h, _ := env.withQueue()
		report := sweepOnce(t, h)
		require.Equal(t, 1, report.Groups)
		require.Len(t, env.heartbeats, 1)
	})
}

func TestSweep_AgeUnknown_Resent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		env.activities = nil
		h, m := env.withQueue()
		sweepOnce(t, h)
		require.Len(t, m.sent, 1, "a duplicate does no harm")

		env.failAlways("activities", errors.New("AccessDenied"))
		report := sweepOnce(t, h)
		require.Len(t, m.sent, 1)
		require.Equal(t, []string{"AccessDenied"}, report.Errors)
	})
}

func TestSweep_QueueFails_ReportsError(t *testing.T) {
	for _, step := range []string{"backlog", "send"} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			h, _ := env.withQueue()
			env.failAlways(step, errors.New("AccessDenied"))
			report := sweepOnce(t, h)
			require.Zero(t, report.EventsResent)
			require.Len(t, report.Errors, 1)
			require.Contains(t, report.Errors[0], "AccessDenied")
		})
	}
}

func TestSweep_ManyErrors_NamedThenCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		for n := range 99 {
			env.otherGroups = append(env.otherGroups, Group{Name: fmt.Sprint("g-", n), Instances: []Instance{{ID: fmt.Sprint("i-0", n), State: "Terminating:Wait"}}})
		}
		env.failAlways("heartbeat", errors.New("Rate exceeded"))
		h, _ := env.withQueue()
		h.Policy.Owns = func(string, map[string]string) bool { return true }
		report := sweepOnce(t, h)
		require.Len(t, report.Errors, maxErrors+1)
		require.Equal(t, "and 80 more", report.Errors[maxErrors])
	})
}

func TestSweep_ErrorsAtTheLimit_AllNamedNoneCounted(t *testing.T) {
	s := newTestEnv().handler().newSweep()
	for range maxErrors {
		s.addError(errors.New("Rate exceeded"))
	}
	report, err := s.finish(nil)
	require.NoError(t, err)
	require.Equal(t, slices.Repeat([]string{"Rate exceeded"}, maxErrors), report.Errors)
}

// returnedEnv returns an environment whose instance was drained on its way to the warm pool an hour ago, and is in service again.
func returnedEnv() *testEnv {
	env := newTestEnv()
	env.state = "InService"
	env.closed = []ClosedNode{{Name: "node-1", UID: "uid-1", Hook: "quiesce", CordonedAt: time.Now().Add(-time.Hour), Unschedulable: true}}
	return env
}

// No event says that an instance has returned. Its node would stay cordoned: capacity that is paid for and not used.
func TestSweep_InstanceReturned_NodeRestored(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		h, _ := env.withQueue()
		report := sweepOnce(t, h)
		require.Equal(t, 1, report.Restored)
		require.Equal(t, []string{"acquire", "restore node-1", "release"}, env.effects())
	})
}

func TestSweep_NotSurelyReturned_NodeStaysCordoned(t *testing.T) {
	for name, change := range map[string]func(*testEnv, *Handler){
		"cordoned just now": func(env *testEnv, _ *Handler) {
			env.closed[0].CordonedAt = time.Now().Add(-minCordonAge + time.Second)
		},
		"cordoned by hand":                func(env *testEnv, _ *Handler) { env.closed[0].Hook = "" },
		"of another installation":         func(env *testEnv, _ *Handler) { env.closed[0].Hook = "theirs" },
		"leases":                          func(env *testEnv, _ *Handler) { env.heldLeases = []string{event.InstanceID} },
		"stopped":                         func(env *testEnv, _ *Handler) { env.state = "Warmed:Stopped" },
		"retained":                        func(env *testEnv, _ *Handler) { env.state = "Terminating:Retained" },
		"in shadow mode":                  func(_ *testEnv, h *Handler) { h.Policy.Shadow = true },
		"its Lease is acquired meanwhile": func(env *testEnv, _ *Handler) { env.heldElsewhere = true },
	} {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			h, _ := env.withQueue()
			change(env, h)
			require.Zero(t, sweepOnce(t, h).Restored, name)
			require.Empty(t, env.effects(), name)
		})
	}
}

func TestSweep_TerminatedDuringRestore_StaysCordoned(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		h, _ := env.withQueue()
		connect := h.Connect
		h.Connect = func(ctx context.Context) (Kubernetes, error) {
			k, err := connect(ctx)
			return terminatesOnAcquire{k, env}, err
		}
		require.Zero(t, sweepOnce(t, h).Restored)
		require.Equal(t, []string{"acquire", "release"}, env.effects())
	})
}

// terminatesOnAcquire terminates the instance while its Lease is acquired.
type terminatesOnAcquire struct {
	Kubernetes
	env *testEnv
}

func (t terminatesOnAcquire) AcquireLease(ctx context.Context, id string, a Acquisition) (Lease, error) {
	t.env.setState("Terminating:Wait")
	return t.Kubernetes.AcquireLease(ctx, id, a)
}

func TestSweep_RestoreFails_ReportsError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.failAlways("restore", errors.New("forbidden"))
		h, _ := env.withQueue()
		report := sweepOnce(t, h)
		require.Zero(t, report.Restored)
		require.Equal(t, []string{"forbidden"}, report.Errors)
	})
}
