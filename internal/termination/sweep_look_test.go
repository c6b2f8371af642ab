package termination

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// hangingHooks accepts heartbeats and never answers.
type hangingHooks struct{ fakeHooks }

func (h hangingHooks) Heartbeat(ctx context.Context, t Termination) error {
	_ = h.fakeHooks.Heartbeat(ctx, t)
	<-ctx.Done()
	return context.Cause(ctx)
}

// hangingEnv returns an environment in which a hundred instances wait, and no heartbeat is answered.
func hangingEnv() (*testEnv, *Handler, *fakeQueue) {
	env := lostEventEnv()
	for n := range 99 {
		env.otherGroups = append(env.otherGroups, Group{Name: fmt.Sprint("g-", n), Instances: []Instance{{ID: fmt.Sprint("i-0", n), State: "Terminating:Wait"}}})
	}
	h, m := env.withQueue()
	h.Hooks = hangingHooks{fakeHooks{env}}
	h.Policy.Owns = func(string, map[string]string) bool { return true }
	return env, h, m
}

// Sweeps piled up while an endpoint of AWS accepted requests and never answered: one begins each minute.
func TestSweep_EndpointHangs_EndsAndSaysWhatIsLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, h, m := hangingEnv()
		report := sweepOnce(t, h)
		require.Equal(t, 50*time.Second, report.FinishedAt.Sub(report.StartedAt))
		require.NotEmpty(t, report.Unreached) // some groups are due for the look at their hooks
		require.Regexp(t, "^heartbeats: (5[0-9]|60) of 100: the sweep's 50s are over, a later one continues$", report.Unreached[0])
		require.Equal(t, 100, report.Waiting)
		require.Empty(t, m.sent)
	})
}

// A sweep of a throttled account does not reach all instances. One that no sweep reaches is terminated at its hook's timeout, undrained.
func TestSweep_NotAllAreReached_EachGetsAHeartbeatFromOneOfTheNext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := hangingEnv()
		for range 40 { // that one is missed by all of them has a chance of one in ten million
			sweepOnce(t, h)
		}
		reached := map[string]bool{}
		for _, beat := range env.heartbeats {
			reached[beat.termination.InstanceID] = true
		}
		require.Len(t, reached, 100)
	})
}

// What is most urgent comes first, whatever the rest must wait for.
func TestInOrder_TimeIsOver_TheFirstAreDone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mutex sync.Mutex
		var begun []int
		s := &sweep{}
		s.inOrder(ctx, "scheduled changes", 100, func(n int) {
			mutex.Lock()
			begun = append(begun, n)
			mutex.Unlock()
			<-ctx.Done()
		})
		require.ElementsMatch(t, []int{0, 1, 2, 3, 4, 5, 6, 7}, begun)
		require.Len(t, s.report.Unreached, 1)
	})
}

func TestSweep_ClusterHangs_HeartbeatsAreSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		env.hangs = map[string]bool{"connect": true}
		h, _ := env.withQueue()
		report := sweepOnce(t, h)
		require.Len(t, env.heartbeats, 1)
		require.Equal(t, readClusterTimeout, report.FinishedAt.Sub(report.StartedAt))
		require.False(t, report.ClusterReachable)
	})
}

func TestSweep_ClusterAnswers_IsReachable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		h, _ := env.withQueue()
		require.True(t, sweepOnce(t, h).ClusterReachable)
	})
}

func TestSweep_LongError_IsCut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := lostEventEnv()
		env.failAlways("connect", errors.New(strings.Repeat("é", 450_000)))
		h, _ := env.withQueue()
		errs := sweepOnce(t, h).Errors
		require.Len(t, errs, 1)
		require.LessOrEqual(t, len(errs[0]), 1024)
		require.True(t, strings.HasSuffix(errs[0], "é…"))
	})
}

// Connections of a load balancer drain before the wait. Until it did not count, healthy drains set off an alarm.
func TestSweep_LongestWait_IsOfTheOldestInstance(t *testing.T) {
	held := []string{event.InstanceID}
	for name, c := range map[string]struct {
		change func(*testEnv)
		want   time.Duration
		of     string
	}{
		"activity":       {func(*testEnv) {}, 10 * time.Minute, event.InstanceID},
		"an older one":   {func(env *testEnv) { env.activities["i-0bbb"] = time.Now().Add(-time.Hour) }, time.Hour, "i-0bbb"},
		"a drained one":  {func(env *testEnv) { env.heldLeases = held }, 10 * time.Minute, event.InstanceID},
		"received later": {func(env *testEnv) { env.heldLeases, env.received = held, time.Now().Add(-time.Minute) }, time.Minute, event.InstanceID},
		"received earlier, for another termination": {func(env *testEnv) {
			env.heldLeases, env.received = held, time.Now().Add(-time.Hour)
		}, 10 * time.Minute, event.InstanceID},
		"begins just now":    {func(env *testEnv) { env.activities[event.InstanceID] = time.Now() }, 0, ""},
		"no activity":        {func(env *testEnv) { env.activities = nil }, 0, ""},
		"activities fail":    {func(env *testEnv) { env.failAlways("activities", errors.New("Rate exceeded")) }, 0, ""},
		"waits on another's": {func(env *testEnv) { env.failAlways("heartbeat", ErrNoActiveAction) }, 0, ""},
		"nothing waits":      {func(env *testEnv) { env.state, env.peers = inService, nil }, 0, ""},
		"closed, and no activity": {func(env *testEnv) {
			env.activities = nil
			env.closed = []ClosedNode{{UID: "1", CordonedAt: time.Now().Add(-time.Minute)}, {UID: "2", CordonedAt: time.Now().Add(-time.Hour)}}
		}, time.Hour, event.InstanceID},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := lostEventEnv()
			env.peers = []Instance{{ID: "i-0bbb", State: "Terminating:Wait"}}
			c.change(env)
			h, _ := env.withQueue()
			report := sweepOnce(t, h)
			require.Equal(t, c.want.Seconds(), report.LongestWaitSeconds, name)
			require.Equal(t, c.of, report.LongestWaiting, name)
		})
	}
}

// warmGroups has a warm pool in our group.
type warmGroups struct{ *testEnv }

func (g warmGroups) List(ctx context.Context, names ...string) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		for group, err := range g.testEnv.List(ctx, names...) {
			group.WarmPool = group.Name == "workers-a"
			if !yield(group, err) {
				return
			}
		}
	}
}

// warmEnv returns an environment whose instance is in the warm pool, in this state, since ten minutes.
func warmEnv(state string) (*testEnv, *Handler, *fakeQueue) {
	env := lostEventEnv()
	env.state = state
	h, m := env.withQueue()
	h.Groups = warmGroups{env}
	return env, h, m
}

// An instance of a warm pool waited for 20 minutes, and was then stopped or terminated without a signal to its pods.
func TestSweep_WarmInstanceWaits_KeptAliveAndResent(t *testing.T) {
	for _, state := range []string{"Warmed:Terminating:Wait", "Warmed:Pending:Wait"} {
		bubble.Test(t, func(t *testing.T) {
			_, h, m := warmEnv(state)
			report := sweepOnce(t, h)
			require.Equal(t, 1, report.Waiting, state)
			require.Equal(t, 1, report.Heartbeats, state)
			require.Equal(t, []string{resentEvent}, m.sent, state)
			require.Equal(t, 600.0, report.LongestWaitSeconds, state)
		})
	}
}

func TestSweep_WarmInstanceOnLaunchHook_NotOurs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := warmEnv("Warmed:Pending:Wait")
		env.failAlways("heartbeat", ErrNoActiveAction)
		report := sweepOnce(t, h)
		require.Zero(t, report.Waiting)
		require.Zero(t, report.LongestWaitSeconds)
		require.Empty(t, report.Errors)
		require.Empty(t, m.sent)
	})
}

// A group has a hook for launches that has our name. Auto Scaling accepts heartbeats for it: they name hook and instance only.
func TestSweep_LaunchHookOfOurName_NotOurs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, m := warmEnv("Warmed:Pending:Wait")
		env.hook.Launching = true
		report := sweepOnce(t, h)
		require.Zero(t, report.Waiting)
		require.Zero(t, report.Heartbeats)
		require.Empty(t, report.Errors)
		require.Empty(t, m.sent)
		require.Empty(t, env.heartbeats)
	})
}

func TestSweep_WarmInstanceDrained_CountsAsDraining(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := warmEnv("Warmed:Terminating:Wait")
		env.heldLeases = []string{event.InstanceID}
		report := sweepOnce(t, h)
		require.Equal(t, 1, report.Waiting)
		require.Equal(t, 1, report.Draining)
		require.Empty(t, env.heartbeats)
	})
}

func TestSweep_WarmPoolFails_OthersAreSwept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h, _ := warmEnv("Warmed:Terminating:Wait")
		env.peers = []Instance{{ID: "i-0bbb", State: "Terminating:Wait"}}
		env.failAlways("warmpool", errors.New("AccessDenied"))
		report := sweepOnce(t, h)
		require.Equal(t, []string{"AccessDenied"}, report.Errors)
		require.Equal(t, 1, report.Heartbeats)
	})
}

// A forged or a withdrawn Spot interruption left the node closed for ever.
func TestSweep_UntrueSpotInterruption_NodeRestored(t *testing.T) {
	for name, c := range map[string]struct {
		trigger Trigger
		age     time.Duration
		want    int
	}{
		"untrue":                  {SpotInterruption, 10 * time.Minute, 1},
		"it may come yet":         {SpotInterruption, 10*time.Minute - time.Second, 0},
		"a rebalance recommended": {RebalanceRecommendation, time.Hour, 0},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			env.closed[0].Hook, env.closed[0].Trigger, env.closed[0].CordonedAt = "", c.trigger, time.Now().Add(-c.age)
			h, _ := env.withQueue()
			require.Equal(t, c.want, sweepOnce(t, h).Restored, name)
		})
	}
}

// panicking panics when a node is restored.
type panicking struct{ Kubernetes }

func (panicking) Restore(context.Context, drain.Node, *ClosedNode) error { panic("nil selector") }

func TestSweep_PanicOfOneNode_OthersAreSwept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		env.freeLeases = []string{"i-0aaa"}
		h, _ := env.withQueue()
		h.Connect = func(context.Context) (Kubernetes, error) { return panicking{env}, nil }
		h.Groups = partialEC2{env, nil, nil}
		report := sweepOnce(t, h)
		require.Equal(t, []string{"nodes that returned: panic: nil selector"}, report.Errors)
		require.Contains(t, env.effects(), "delete lease i-0aaa")
	})
}

// partialEC2 knows some instances, and may fail for the others.
type partialEC2 struct {
	*testEnv
	known map[string]EC2Instance
	err   error
}

func (p partialEC2) EC2Instances(context.Context, ...string) (map[string]EC2Instance, error) {
	return p.known, p.err
}

func TestSweep_InstanceGone_LeaseDeleted(t *testing.T) {
	known := map[string]EC2Instance{"i-0aaa": {Terminated: true}, "i-0bbb": {}}
	for _, c := range []struct {
		err  error
		want []string
	}{
		{nil, []string{"delete lease i-0aaa", "delete lease i-0ccc"}},
		{errors.New("Rate exceeded"), []string{"delete lease i-0aaa"}}, // the third may be of the request that failed
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = inService
			env.freeLeases = []string{"i-0aaa", "i-0bbb", "i-0ccc", "quiesce-pooler-7", event.InstanceID}
			h := env.handler()
			h.Groups = partialEC2{env, known, c.err}
			sweepOnce(t, h)
			require.ElementsMatch(t, c.want, env.effects())
		})
	}
}
