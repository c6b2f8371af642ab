package termination

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// lost is a world whose instance has been waiting for ten minutes for an event that was lost.
func lost() *world {
	w := newWorld()
	w.began = map[string]time.Time{event.InstanceID: time.Now().Add(-10 * time.Minute)}
	return w
}

// sweepOf sweeps once.
func sweepOf(t *testing.T, h *Handler) (SweepReport, error) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &Request{Action: ActionSweep}}}} }
	h.EncodeEvent = func(t Termination) string {
		return fmt.Sprintf("%s %s %s%s %s", t.Group, t.Hook, t.InstanceID, t.Token, time.Since(t.Began))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	return answer.(SweepReport), err
}

func swept(t *testing.T, h *Handler) SweepReport {
	t.Helper()
	report, err := sweepOf(t, h)
	require.NoError(t, err)
	require.Equal(t, StatusSwept, report.Status)
	return report
}

// Auto Scaling's events are best effort. An instance whose event is lost would wait for its hook to run out, and then die with
// its pods undrained.
func TestALostEventIsFoundAndItsInstanceKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		h, m := w.inQueue()
		report := swept(t, h)
		require.Equal(t, []string{"workers-a quiesce i-0abc1234 10m0s"}, m.sent, "with when it began, and without a token")
		require.Len(t, w.beats, 1)
		require.Empty(t, w.beats[0].of.Token)
		require.Equal(t, 1, report.Groups)
		require.Equal(t, 1, report.Waiting)
		require.Zero(t, report.Draining)
		require.Equal(t, 1, report.Heartbeats)
		require.Equal(t, 1, report.EventsResent)
		require.Equal(t, []string{}, report.Errors)
		require.Empty(t, w.effects(), "a sweep never drains")
	})
}

func TestASweepOfNothingDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.state = "InService"
		h, m := w.inQueue()
		w.failing("backlog", errors.New("not to be asked"))
		w.failing("began", errors.New("not to be asked"))
		w.failing("hook", errors.New("not to be asked"))
		report := swept(t, h)
		require.Empty(t, report.Errors)
		require.Empty(t, m.sent)
		require.Empty(t, w.beats)
	})
}

func TestWhatASweepLeavesAlone(t *testing.T) {
	for _, c := range []struct {
		name       string
		change     func(*world, *mailbox)
		heartbeats int
	}{
		{"an instance that is drained", func(w *world, _ *mailbox) { w.leases = []string{event.InstanceID} }, 0},
		{"one that came just now", func(w *world, _ *mailbox) {
			w.began[event.InstanceID] = time.Now().Add(-lostAge + time.Second)
		}, 1},
		{"one that its hook will not wait for", func(w *world, _ *mailbox) {
			w.began[event.InstanceID] = time.Now().Add(-w.hook.GlobalTimeout)
		}, 1},
		{"one that waits on another hook", func(w *world, _ *mailbox) { w.failing("heartbeat", ErrNoActiveAction) }, 0},
		{"one of a group without our hook", func(w *world, _ *mailbox) { w.failing("hook", ErrNoHook) }, 0},
		{"one that is past waiting", func(w *world, _ *mailbox) { w.state = "Terminating:Proceed" }, 0},
		{"while messages wait, any", func(_ *world, m *mailbox) { m.waiting = 1 }, 1},
		{"one that may be tried again soon", func(_ *world, m *mailbox) { m.underWay = 1 }, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := lost()
			h, m := w.inQueue()
			c.change(w, m)
			report := swept(t, h)
			require.Empty(t, m.sent, c.name)
			require.Empty(t, report.Errors, c.name)
			require.Equal(t, c.heartbeats, report.Heartbeats, c.name)
		})
	}
}

func TestWhetherAnyEventWasLostFollowsFromTheQueue(t *testing.T) {
	for _, c := range []struct {
		instances, waiting, underWay, drains int
		want                                 bool
	}{
		{1, 0, 0, 0, true},
		{1, 1, 0, 0, false}, // it may be the message that waits
		{1, 0, 1, 0, false}, // or the one that failed and is to be tried again
		{1, 0, 1, 1, true},  // which is that of a drain
		{1, 0, 0, 3, true},  // drains that came otherwise have no message
		{2, 0, 1, 0, true},  // one of them at least
		{2, 0, 5, 3, false},
		{0, 0, 0, 0, false},
	} {
		require.Equal(t, c.want, hasLostEvents(c.instances, c.waiting, c.underWay, c.drains), "%+v", c)
	}
}

// An instance that fails again and again is not owned in between. Were it enqueued each minute, it would soon have as many
// messages, each of which fails as often.
func TestAnInstanceThatFailsIsNotEnqueuedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		h, m := w.inQueue()
		m.underWay = 1
		for range 30 {
			require.Equal(t, 1, swept(t, h).Heartbeats)
			time.Sleep(time.Minute)
		}
		require.Empty(t, m.sent)
	})
}

func TestAnEscortsLeaseIsNoDrain(t *testing.T) {
	s := &sweep{held: []string{"i-0abc1234", "quiesce-pooler-7"}}
	require.Equal(t, 1, s.countDrains())
}

func TestWithoutAQueueASweepOnlyKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		report := swept(t, w.handler())
		require.Equal(t, 1, report.Heartbeats)
		require.Zero(t, report.EventsResent)
		require.Empty(t, report.Errors)
	})
}

// While the cluster is out of reach nobody drains. The instances must outlive that.
func TestASweepKeepsAliveThoughTheClusterIsOutOfReach(t *testing.T) {
	for _, step := range []string{"connect", "owned"} {
		synctest.Test(t, func(t *testing.T) {
			w := lost()
			w.failing(step, errors.New("no route to host"))
			h, m := w.inQueue()
			report := swept(t, h)
			require.Equal(t, 1, report.Heartbeats)
			require.Empty(t, m.sent, "somebody may own it")
			require.Equal(t, []string{"no route to host"}, report.Errors)
		})
	}
}

func TestTheFaultOfOneGroupIsNotTheOthers(t *testing.T) {
	for _, step := range []string{"hook-workers-b", "heartbeat-i-0bbb"} {
		synctest.Test(t, func(t *testing.T) {
			w := lost()
			w.groups = []Group{{"workers-b", []Instance{{ID: "i-0bbb", State: "Terminating:Wait"}}}}
			w.began["i-0bbb"] = w.began[event.InstanceID]
			h, m := w.inQueue()
			h.Policy.OwnsGroup = func(string) bool { return true }
			w.failing(step, errors.New("Rate exceeded"))
			report := swept(t, h)
			require.Equal(t, 2, report.Waiting)
			require.Equal(t, []string{"workers-a quiesce i-0abc1234 10m0s"}, m.sent)
			require.Equal(t, []string{"Rate exceeded"}, report.Errors)
		})
	}
}

func TestAPageOfGroupsThatCannotBeHadIsAFaultAndOnlyAllOfThemAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		w.faults["every"] = []error{errors.New("Rate exceeded")}
		w.groups = []Group{{Name: "workers-b"}}
		h, m := w.inQueue()
		report := swept(t, h)
		require.Len(t, m.sent, 1)
		require.Equal(t, []string{"Rate exceeded"}, report.Errors)

		w.failing("every", errors.New("AccessDenied"))
		h.Policy.GroupNames = []string{"none"}
		report, err := sweepOf(t, h)
		var failed *Failed
		require.ErrorAs(t, err, &failed)
		require.Equal(t, StatusFailed, report.Status)
	})
}

func TestForeignGroupsAreNotSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		w.groups = []Group{{"theirs", []Instance{{ID: "i-0fff", State: "Terminating:Wait"}}}}
		h, _ := w.inQueue()
		report := swept(t, h)
		require.Equal(t, 1, report.Groups)
		require.Len(t, w.beats, 1)
	})
}

func TestAnInstanceWhoseAgeNobodyTellsIsEnqueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		w.began = nil
		h, m := w.inQueue()
		swept(t, h)
		require.Len(t, m.sent, 1, "better twice than never")

		w.failing("began", errors.New("AccessDenied"))
		report := swept(t, h)
		require.Len(t, m.sent, 1)
		require.Equal(t, []string{"AccessDenied"}, report.Errors)
	})
}

func TestWhatCannotBeEnqueuedIsAFault(t *testing.T) {
	for _, step := range []string{"backlog", "send"} {
		synctest.Test(t, func(t *testing.T) {
			w := lost()
			h, _ := w.inQueue()
			w.failing(step, errors.New("AccessDenied"))
			report := swept(t, h)
			require.Zero(t, report.EventsResent)
			require.Len(t, report.Errors, 1)
			require.Contains(t, report.Errors[0], "AccessDenied")
		})
	}
}

func TestFaultsAreNamedUpToAPointAndThenCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lost()
		for n := range 99 {
			w.groups = append(w.groups, Group{fmt.Sprint("g-", n), []Instance{{ID: fmt.Sprint("i-0", n), State: "Terminating:Wait"}}})
		}
		w.failing("heartbeat", errors.New("Rate exceeded"))
		h, _ := w.inQueue()
		h.Policy.OwnsGroup = func(string) bool { return true }
		report := swept(t, h)
		require.Len(t, report.Errors, maxErrors+1)
		require.Equal(t, "and 80 more", report.Errors[maxErrors])
	})
}

// back is a world whose instance was drained on its way to the warm pool an hour ago, and is in service again.
func back() *world {
	w := newWorld()
	w.state = "InService"
	w.marks = []CordonedNode{{
		Node: drain.Node{Name: "node-1", InstanceID: event.InstanceID}, Hook: "quiesce", CordonedAt: time.Now().Add(-time.Hour),
	}}
	return w
}

// No event tells that an instance has come back. Its node would stay closed: capacity that is paid for and not used.
func TestANodeThatCameBackIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := back()
		h, _ := w.inQueue()
		report := swept(t, h)
		require.Equal(t, 1, report.Restored)
		require.Equal(t, []string{"own", "restore node-1", "release"}, w.effects())
	})
}

func TestANodeThatMayNotHaveComeBackStaysClosed(t *testing.T) {
	for name, change := range map[string]func(*world, *Handler){
		"closed just now":         func(w *world, _ *Handler) { w.marks[0].CordonedAt = time.Now().Add(-minCordonAge + time.Second) },
		"closed for a person":     func(w *world, _ *Handler) { w.marks[0].Hook = "" },
		"of another installation": func(w *world, _ *Handler) { w.marks[0].Hook = "theirs" },
		"owned":                   func(w *world, _ *Handler) { w.leases = []string{event.InstanceID} },
		"stopped":                 func(w *world, _ *Handler) { w.state = "Warmed:Stopped" },
		"retained":                func(w *world, _ *Handler) { w.state = "Terminating:Retained" },
		"in shadow mode":          func(_ *world, h *Handler) { h.Policy.Shadow = true },
		"leased meanwhile":        func(w *world, _ *Handler) { w.leased = true },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := back()
			h, _ := w.inQueue()
			change(w, h)
			require.Zero(t, swept(t, h).Restored, name)
			require.Empty(t, w.effects(), name)
		})
	}
}

func TestANodeThatIsTerminatedWhileItIsRestoredStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := back()
		h, _ := w.inQueue()
		connect := h.Connect
		h.Connect = func(ctx context.Context) (Kubernetes, error) {
			k, err := connect(ctx)
			return turning{k, w}, err
		}
		require.Zero(t, swept(t, h).Restored)
		require.Equal(t, []string{"own", "release"}, w.effects())
	})
}

// turning has the instance terminated at the moment when its lease is taken.
type turning struct {
	Kubernetes
	world *world
}

func (t turning) AcquireLease(ctx context.Context, id string, shorten func(time.Time)) (Lease, error) {
	t.world.enter("Terminating:Wait")
	return t.Kubernetes.AcquireLease(ctx, id, shorten)
}

func TestANodeThatCannotBeRestoredIsAFaultOfTheSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := back()
		w.failing("restore", errors.New("forbidden"))
		h, _ := w.inQueue()
		report := swept(t, h)
		require.Zero(t, report.Restored)
		require.Equal(t, []string{"forbidden"}, report.Errors)
	})
}
