package termination

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// otherMethods are the methods of an escort that a test does not call.
type otherMethods = drain.Escort

// slowShutdown is an escort whose ShutDown takes its time.
type slowShutdown struct {
	otherMethods
	takes   time.Duration
	env     *testEnv
	evictBy time.Time
	maxWait time.Duration
}

func (u *slowShutdown) ShutDown(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	u.evictBy, u.maxWait = p.EvictBy, p.MaxWait
	err := drain.Sleep(ctx, u.takes)
	_ = u.env.do("shutdown " + p.Name)
	return drain.EscortResult{Strategy: "shutdown"}, err
}

// daemonEnv returns an environment with a DaemonSet's pooler and a pod that its PDB blocks.
func daemonEnv(takes time.Duration) (*testEnv, *Handler, *slowShutdown) {
	env, h := blockedEnv(2 * time.Second)
	u := &slowShutdown{takes: takes, env: env}
	daemon := web("daemon")
	daemon.Controller, daemon.Labels = "DaemonSet", map[string]string{"pooler": "yes"}
	env.node.Add(daemon, time.Second)
	isPooler := func(p drain.Pod) bool { return p.Labels["pooler"] != "" }
	h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: isPooler, Escort: u}, {Name: "workloads"}}
	h.Policy.Force = false
	return env, h, u
}

func TestDaemonSets_DeadlineReached_PoolersShutDown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, u := daemonEnv(3 * time.Second)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, []string{"shutdown daemon", "complete t-1 CONTINUE", "release"}, lastOf(env.effects(), 3))
		require.Equal(t, "shutdown", report.Pods[0].Escort.Strategy)
		require.Equal(t, report.Deadline.Add(8*time.Second), u.evictBy, "the end of their time")
		require.Equal(t, report.Deadline.Add(3*time.Second), report.FinishedAt)
	})
}

func TestDaemonSets_SlowShutdown_DoesNotDelayCompletion(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := daemonEnv(time.Hour)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, []Result{Continue}, env.completed)
		require.Equal(t, report.Deadline.Add(daemonShutdownTime), report.FinishedAt)
	})
}

func TestDaemonSets_DrainHandedOff_PoolersKeepRunning(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := daemonEnv(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.Invoke(ctx, nil)
		require.ErrorAs(t, err, new(*Incomplete))
		require.NotContains(t, env.effects(), "shutdown daemon")
	})
}

// An invocation that is nearly over leaves the shutdown to the next one: a pooler that has no time for it is killed.
func TestDaemonSets_InvocationNearlyOver_ShutDownByTheNext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, u := daemonEnv(5 * time.Second)
		env.node.Allow("b", 1)
		env.detachTime = 40 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.Invoke(ctx, nil)
		require.ErrorAs(t, err, new(*Incomplete))
		require.Zero(t, u.evictBy)
		require.Empty(t, env.completed)
		require.WithinDuration(t, time.Now(), env.heartbeats[len(env.heartbeats)-1].at, time.Second, "the next invocation has the hook's whole timeout")

		env.detachTime = 0
		next, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = h.Invoke(next, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"shutdown daemon", "complete t-1 CONTINUE", "release"}, lastOf(env.effects(), 3))
	})
}

// The next invocation must have more time. It has none after a deadline that EC2 announced meanwhile, nor if it waits for the same volumes.
// A manual drain has no next invocation.
func TestDaemonSets_NextInvocationHasNoMoreTime_ShutDownNow(t *testing.T) {
	for name, change := range map[string]func(*testEnv, *Handler) Record{
		"Spot interruption": func(env *testEnv, _ *Handler) Record {
			deadline := time.Now().Add(75 * time.Second)
			time.AfterFunc(20*time.Second, func() { env.shortenDeadline(deadline) })
			return Record{Termination: &event}
		},
		"volumes stay": func(env *testEnv, h *Handler) Record {
			env.detachTime, h.Policy.Bounds.VolumeDetachTimeout = time.Hour, 40*time.Second
			return Record{Termination: &event}
		},
		"manual drain": func(env *testEnv, h *Handler) Record {
			env.setState(inService)
			h.Policy.AllowManualDrain = true
			return Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}}
		},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h, u := daemonEnv(time.Second)
			env.node.Allow("b", 1)
			env.detachTime = 40 * time.Second
			record := change(env, h)
			h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{record}} }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := h.Invoke(ctx, nil)
			require.NoError(t, err, name)
			require.False(t, u.evictBy.IsZero(), name)
		})
	}
}

// The pods of a node that has taken the place of ours are not ours to shut down.
func TestDaemonSets_NodeReplaced_LeftAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, u := daemonEnv(0)
		env.node.Allow("b", 1)
		h.Connect = func(context.Context) (Kubernetes, error) { return replacedNode{env}, nil }
		old, first := event, time.Now()
		time.Sleep(h.Policy.Bounds.MaxDuration + 2*lateRetryTime)
		_, err := deliver(t, h, Record{Termination: &old, FirstReceived: first})
		require.NoError(t, err)
		require.Equal(t, []Result{Continue}, env.completed)
		require.True(t, u.evictBy.IsZero())
	})
}

func lastOf(all []string, n int) []string { return all[max(0, len(all)-n):] }

// A pod that comes while volumes are awaited is evicted before the last step, whose result stays in the report.
func TestDaemonSets_PodComesWhileVolumesAreAwaited_PoolersShutDownLast(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, u := daemonEnv(0)
		env.node.Allow("b", 1)
		env.detachTime = 30 * time.Second
		go func() {
			time.Sleep(20 * time.Second)
			env.node.Add(web("late"), time.Second)
		}()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []string{"volumes", "evict app/late", "volumes", "shutdown daemon", "complete t-1 CONTINUE", "release"}, lastOf(env.effects(), 6))
		require.NotZero(t, u.evictBy)
		for _, p := range report.Pods {
			require.Equal(t, p.Name == "daemon", p.Escort != nil, p.Name)
		}
	})
}

// EC2 reclaims the instance two minutes after its warning. No pod is being evicted then, so nothing else notices the earlier deadline.
func TestDaemonSets_SpotInterruptionWhileVolumesAreAwaited_ShutDownInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, u := daemonEnv(0)
		env.node.Allow("b", 1)
		env.detachTime = 30 * time.Second
		deadline := time.Now().Add(75 * time.Second)
		time.AfterFunc(15*time.Second, func() { env.shortenDeadline(deadline) })
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, SpotInterruption, report.Trigger)
		require.Equal(t, deadline, report.Deadline)
		require.Equal(t, spotMaxWait, u.maxWait)
		require.False(t, u.evictBy.IsZero())
		require.False(t, u.evictBy.After(deadline.Add(daemonShutdownTime)), u.evictBy)
	})
}
