package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// Everything before the first eviction helps, and nothing of it is needed. A webhook that denied the cordon let every pod be killed without
// a signal.
func TestHelp_StepFailsOrHangs_PodsEvictedAllTheSame(t *testing.T) {
	for _, c := range []struct {
		step string
		says string // in the report's reason
		logs string
	}{
		{"acquire", "plain evictions only", "plain evictions only"},
		{"hook", "", "failed to describe lifecycle hook"},
		{"heartbeat", "", "heartbeat"},
		{"activities", "", "the first receipt of the event counts as the start"},
		{"group", "", "terminating peers are not tainted"},
		{"ec2", "", "searching nodes instead"},
		{"save", "cordon", "drain continues without an optional step"},
		{"cordon", "cordon", "drain continues without an optional step"},
		{"event", "", "event"},
		{"taint", "", "failed to taint terminating peers"},
	} {
		for _, hangs := range []bool{false, true} {
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.node.Add(web("web"), time.Second)
				env.peers = []Instance{{ID: "i-0def", State: "Terminating:Wait"}}
				if hangs {
					env.hangs = map[string]bool{c.step: true}
				} else {
					env.failAlways(c.step, errors.New("denied"))
				}
				began := time.Now()
				var log strings.Builder
				h := env.handler()
				h.Log = slog.New(slog.NewTextHandler(&log, nil))
				report, err := invoke(t, h)
				require.NoError(t, err, c.step)
				require.Equal(t, StatusDrained, report.Status, c.step)
				if !hangs || c.step != "heartbeat" { // one that is not answered is still awaited when the drain ends
					require.Contains(t, log.String(), c.logs, "%s, hangs: %t", c.step, hangs)
				}
				require.Contains(t, env.effects(), "evict app/web", c.step)
				require.Equal(t, []Result{Continue}, env.completed, c.step)
				require.Contains(t, report.Reason, c.says, c.step)
				require.Equal(t, c.says == "", report.Reason == "", "%s: %s", c.step, report.Reason)
				require.Less(t, time.Since(began), 30*time.Second, c.step)
			})
		}
	}
}

// Without them no pod can be reached.
func TestFailure_PodsNotReached_CompletesNothingYet(t *testing.T) {
	for _, step := range []string{"instance", "connect", "find", "watch"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			env.failAlways(step, errors.New("no: "+step))
			report, err := invoke(t, env.handler())
			require.ErrorContains(t, err, "no: "+step)
			require.Equal(t, StatusFailed, report.Status)
			require.Empty(t, env.completed)
		})
	}
}

// A request that is denied is denied again. One that fails may succeed.
func TestCordon_FailsOnce_TriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		cordon int // requests
	}{
		"denied":    {&drain.Refused{Reason: `admission webhook "nodes" denied the request`}, 1},
		"throttled": {errors.New("too many requests"), 2},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			env.errors["cordon"] = []error{c.err}
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status)
			require.Equal(t, c.cordon, count(env.effects(), "cordon node-i-0abc1234"), name)
			require.Equal(t, c.cordon == 1, report.Reason != "", name)
		})
	}
}

// Between the search and the cordon, another node took the name. Its pods are not the instance's.
func TestCordon_NodeReplaced_NothingEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		heal := env.failAlways("cordon", fmt.Errorf("cordon node: %w: its UID was 1 and is 2", drain.ErrNodeReplaced))
		report, err := invoke(t, env.handler())
		require.ErrorIs(t, err, drain.ErrNodeReplaced)
		require.Equal(t, StatusFailed, report.Status)
		require.NotContains(t, env.effects(), "evict app/web")
		require.Equal(t, 1, count(env.effects(), "cordon node-i-0abc1234"))
		require.Empty(t, env.completed)

		heal()
		report, err = invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
	})
}

func count(all []string, want string) (n int) {
	for _, one := range all {
		if one == want {
			n++
		}
	}
	return n
}

func TestRecordon_NodeOpened_CordonedAndSavedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		j := env.handler().newJob(event)
		require.False(t, j.acquireLease(t.Context(), env))
		d := j.newNodeDrain(env, drain.Node{Name: "node-1", UID: "uid-1"})
		require.NoError(t, d.cordon(t.Context()))
		require.Nil(t, env.earlier)
		time.Sleep(time.Minute)
		at, err := d.drainer.Recordon(t.Context())
		require.NoError(t, err)
		require.Equal(t, time.Now(), at)
		require.Len(t, env.closed, 1)
		require.Equal(t, "uid-1", env.earlier.UID, "what was changed before survives")

		env.failAlways("cordon", &drain.Refused{Reason: "denied"})
		d = j.newNodeDrain(env, drain.Node{Name: "node-1", UID: "uid-1"})
		require.NoError(t, d.cordon(t.Context()))
		require.Nil(t, d.drainer.Recordon, "it would be denied again")
		require.Zero(t, d.node.Cordoned)
		j.releaseLease()
	})
}

// A description that hangs costs its timeout, and not the invocation.
func TestDrain_EC2Hangs_FirstEvictionWithinSeconds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), 0)
		env.hangs = map[string]bool{"ec2": true, "group": true, "activities": true, "hook": true}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := env.handler().Invoke(ctx, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), 2*askTimeout+time.Second)
	})
}
