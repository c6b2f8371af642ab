package termination

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// onlyCopy is the escort of a database whose data exist on the node only, until a time.
type onlyCopy struct {
	otherMethods
	until time.Time
}

func (e onlyCopy) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	if time.Now().Before(e.until) {
		return drain.EscortResult{Kind: "postgres"}, &drain.Held{Reason: "it is the only copy", OnlyCopy: true}
	}
	return drain.EscortResult{Kind: "postgres"}, r.Evict(ctx, drain.EvictOptions{Grace: r.Grace})
}

// onlyCopyEnv is a node with such a database, and a handler that drains it in as many invocations as it takes.
func onlyCopyEnv(t *testing.T, until time.Time) (env *testEnv, h *Handler, drainAll func() Report) {
	env = newTestEnv()
	primary := web("pg-0")
	primary.Labels, primary.Grace = map[string]string{"phase": "databases"}, time.Minute
	env.node.Add(primary, 5*time.Second).Add(web("web"), time.Second)
	h = env.handler()
	h.Policy.Force = true
	isDatabase := func(p drain.Pod) bool { return p.Labels["phase"] == "databases" }
	h.Drainer.Phases = []drain.Phase{{Name: "databases", Match: isDatabase, Escort: onlyCopy{until: until}, Keeps: true, Lead: time.Minute}, {Name: "workloads"}}
	first := time.Now()
	return env, h, func() Report {
		for range 20 {
			terminating := event
			report, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: first})
			if err == nil {
				return report
			}
			require.Equal(t, StatusIncomplete, report.Status, report.Reason)
			time.Sleep(handOffDelay)
		}
		t.Fatal("the drain does not end")
		return Report{}
	}
}

// The data would be gone with the node. So the action is kept open as long as Auto Scaling allows, and then ends by itself.
func TestOnlyCopy_Held_ActionIsKeptOpenToTheHooksLimit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, drainAll := onlyCopyEnv(t, time.Now().Add(24*time.Hour))
		var log strings.Builder
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		began := time.Now()
		report := drainAll()
		limit := began.Add(env.hook.GlobalTimeout)
		require.WithinDuration(t, limit, time.Now(), h.Policy.Bounds.CompletionReserve+time.Second)
		require.Empty(t, env.completed, "nobody ends it early")
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, []string{"evict app/web", "gone app/web"}, env.node.Log(), "nothing is deleted")
		require.Equal(t, 1, strings.Count(log.String(), "msg=\"lifecycle action kept open"), "said once")
		last := began
		for _, beat := range env.heartbeats {
			require.Less(t, beat.at.Sub(last), env.hook.HeartbeatTimeout)
			last = beat.at
		}
		require.Less(t, limit.Sub(last), env.hook.HeartbeatTimeout+h.Policy.Bounds.CompletionReserve)
	})
}

// A replica was added, or the data are saved: the drain ends as any other.
func TestOnlyCopy_SavedAfterTheDeadline_DrainIsCompleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		env, _, drainAll := onlyCopyEnv(t, began.Add(50*time.Minute))
		report := drainAll()
		require.Equal(t, StatusDrained, report.Status, report.Reason)
		require.Equal(t, []Result{Continue}, env.completed)
		require.WithinDuration(t, began.Add(50*time.Minute), time.Now(), time.Minute)
	})
}

// After the drain's own deadline, an invocation that cannot look would complete the action as onFailure says.
func TestOnlyCopy_PodsCannotBeListedLater_ActionStaysOpen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
		for time.Since(began) < 40*time.Minute {
			terminating := event
			report, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
			require.Error(t, err)
			if time.Since(began) > 31*time.Minute {
				require.Contains(t, report.Reason, "kept open to the hook's limit: app/pg-0")
			}
		}
		env.failAlways("watch", errors.New("forbidden"))
		terminating := event
		_, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
		require.Error(t, err, "it is tried again")
		require.Empty(t, env.completed)
	})
}

// recordedOnlyCopy is onlyCopyEnv after its first invocation. The Lease says that the database is the only copy.
func recordedOnlyCopy(t *testing.T) (env *testEnv, again func() (Report, error)) {
	began := time.Now()
	env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
	again = func() (Report, error) {
		terminating := event
		return deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
	}
	_, err := again()
	require.Error(t, err)
	require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-pg-0", `{"phase":"databases","escort":{},"onlyCopy":true}`))
	return env, again
}

// The record of an earlier invocation is what is known of the data, if the pods cannot be looked at when the drain's time is over.
func TestOnlyCopy_RecordedThenPodsCannotBeListed_ActionStaysOpen(t *testing.T) {
	for name, hangs := range map[string]bool{"denied": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				began := time.Now()
				env, again := recordedOnlyCopy(t)
				heal := env.failAlways("watch", errors.New("forbidden"))
				env.hangs = map[string]bool{"watch": hangs}
				for time.Since(began) < 40*time.Minute {
					_, err := again()
					require.Error(t, err, "it is tried again, after %s", time.Since(began))
					require.Empty(t, env.completed)
					time.Sleep(time.Minute)
				}
				heal()
				env.hangs = nil
				_, err := again()
				require.Error(t, err)
				require.Empty(t, env.completed)
				require.NotContains(t, env.node.Log(), "evict app/pg-0")
			})
		})
	}
}

// An invocation that begins before the drain's time is over, and cannot have the Lease, reads what is on it.
func TestOnlyCopy_RecordedThenLeaseCannotBeHad_NotEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		env, again := recordedOnlyCopy(t)
		env.failAlways("acquire", errors.New("timeout"))
		env.errors["records"] = []error{errors.New("timeout"), errors.New("timeout"), errors.New("timeout")}
		for time.Since(began) < 40*time.Minute {
			_, err := again()
			require.Error(t, err)
			require.Empty(t, env.completed)
			require.NotContains(t, env.node.Log(), "evict app/pg-0")
			time.Sleep(time.Second)
		}
	})
}

// Without the activities, another time counts as the beginning. It is the same action all the same.
func TestOnlyCopy_ActivitiesCannotBeReadLater_ActionStaysOpen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
		env.activities = map[string]time.Time{event.InstanceID: began.Add(-20 * time.Second)}
		for time.Since(began) < 40*time.Minute {
			terminating := event
			_, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
			require.Error(t, err)
		}
		env.activities = nil
		env.failAlways("watch", errors.New("forbidden"))
		terminating := event
		_, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
		require.Error(t, err, "it is tried again")
		require.Empty(t, env.completed)
	})
}

// EC2 reclaims a Spot instance, whatever the hook says.
func TestOnlyCopy_SpotInterruption_DoesNotKeepTheAction(t *testing.T) {
	c := clock{bounds: Bounds{MaxDuration: time.Hour}}
	c.setForHook(startNow(), Hook{GlobalTimeout: 10 * time.Hour})
	c.shortened = true
	require.False(t, c.extendToLimit(Hook{GlobalTimeout: 10 * time.Hour}))
	c.shortened = false
	require.True(t, c.extendToLimit(Hook{GlobalTimeout: 10 * time.Hour}))
}

// That the action is kept open is on the Lease only. One invocation that cannot read it must not end the action, nor the database.
func TestOnlyCopy_LeaseCannotBeReadLater_ActionStaysOpen(t *testing.T) {
	for _, step := range []string{"connect", "acquire"} {
		bubble.Test(t, func(t *testing.T) {
			began := time.Now()
			env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
			again := func() (Report, error) {
				terminating := event
				return deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
			}
			for time.Since(began) < 40*time.Minute {
				_, err := again()
				require.Error(t, err)
			}
			var log strings.Builder
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			heal := env.failAlways(step, errors.New("timeout"))
			beats := len(env.heartbeats)
			report, err := again()
			require.ErrorContains(t, err, "timeout", "it is tried again")
			require.Equal(t, StatusFailed, report.Status)
			require.Empty(t, env.completed, step)
			require.Greater(t, len(env.heartbeats), beats, "the next try has the hook's whole timeout to come")
			require.NotContains(t, log.String(), "continues", "nothing goes on")
			require.Equal(t, []string{"evict app/web", "gone app/web"}, env.node.Log(), step)

			heal()
			report, err = again()
			require.Error(t, err)
			require.Contains(t, report.Reason, "kept open to the hook's limit: app/pg-0")
		})
	}
}

// The cluster is gone before the drain's time is over, and the invocation begins before that too.
func TestOnlyCopy_ClusterUnreachableAtTheDeadline_ActionStaysOpen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
		deadline := began.Add(h.Policy.Bounds.MaxDuration - h.Policy.Bounds.CompletionReserve)
		time.Sleep(time.Until(deadline) - time.Second)
		h.Connect = func(ctx context.Context) (Kubernetes, error) {
			return nil, errors.Join(errors.New("no route"), drain.Sleep(ctx, 2*time.Second))
		}
		terminating := event
		_, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
		require.ErrorContains(t, err, "no route", "it is tried again")
		require.Empty(t, env.completed)
	})
}

// It is bounded: at the hook's limit all is as without a database, and without one nothing is different.
func TestOnlyCopy_LeaseCannotBeReadAtTheLimit_ActionEnds(t *testing.T) {
	for _, c := range []struct {
		step    string
		keeps   bool
		after   time.Duration
		want    Result
		evicted bool
	}{
		{"connect", true, 100 * time.Minute, Abandon, false}, {"connect", false, 40 * time.Minute, Abandon, false},
		{"acquire", true, 100 * time.Minute, Continue, true}, {"acquire", false, 40 * time.Minute, Continue, true},
	} {
		bubble.Test(t, func(t *testing.T) {
			began := time.Now()
			env, h, _ := onlyCopyEnv(t, began.Add(24*time.Hour))
			h.Drainer.Phases[0].Keeps = c.keeps
			env.failAlways(c.step, errors.New("timeout"))
			time.Sleep(c.after)
			terminating := event
			_, err := deliver(t, h, Record{Termination: &terminating, FirstReceived: began})
			require.NoError(t, err)
			require.Equal(t, []Result{c.want}, env.completed, c)
			require.Equal(t, c.evicted, strings.Contains(strings.Join(env.node.Log(), ","), "app/pg-0"), c)
		})
	}
}

// What was changed on the node must be known when its instance returns.
func TestKeepOpen_Lease_KeepsWhatItSaysOfTheNode(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		now := time.Now()
		env.closed = []ClosedNode{{Name: "node-1", UID: "uid-1", Hook: event.Hook, Began: now, CordonedAt: now, Unschedulable: true, Excluded: true}}
		j := env.handler().newJob(event)
		j.lease, j.hook, j.Began = fakeLease{&env.records, env}, env.hook, now
		j.clock.setForHook(start{now, now, now}, env.hook)
		j.report.Pods = onlyCopies("pg-0")
		for _, node := range []drain.Node{{Name: "node-1", UID: "uid-1"}, {Name: "node-2", UID: "uid-2", Cordoned: now}} {
			j.drains = append(j.drains, j.newNodeDrain(env, node))
		}
		require.True(t, j.keepOpen(t.Context()))
		require.Equal(t, []ClosedNode{
			{Name: "node-1", UID: "uid-1", Hook: event.Hook, Began: now, CordonedAt: now, Unschedulable: true, Excluded: true, KeptOpen: true},
			{Name: "node-2", UID: "uid-2", Hook: event.Hook, Began: now, CordonedAt: now, KeptOpen: true},
		}, env.closed)
	})
}

// onlyCopies are pods that remain, and whose data exist on their node only.
func onlyCopies(names ...string) (pods []drain.PodReport) {
	for _, name := range names {
		pods = append(pods, drain.PodReport{Namespace: "app", Name: name, Outcome: drain.StillHeld, OnlyCopy: true})
	}
	return pods
}

func TestOnlyCopiesNote_ManyPods_ThreeAreNamed(t *testing.T) {
	const because = "data exist on this node only, the lifecycle action is kept open to the hook's limit:"
	for names, want := range map[string]string{
		"a":         " app/a",
		"a b c":     " app/a, app/b, app/c",
		"a b c d":   " app/a, app/b, app/c and 1 more",
		"a b c d e": " app/a, app/b, app/c and 2 more",
	} {
		require.Equal(t, because+want, onlyCopiesNote(onlyCopies(strings.Fields(names)...)))
	}
}

// An earlier invocation kept the action open, and the data are saved by now.
func TestNoteOnlyCopies_NoneLeft_NothingIsNoted(t *testing.T) {
	j := newTestEnv().handler().newJob(event)
	j.keptOpen = true
	j.noteOnlyCopies()
	require.Empty(t, j.notes)
	j.report.Pods = onlyCopies("pg-0")
	j.noteOnlyCopies()
	require.Len(t, j.notes, 1)
}
