package termination

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/test/parts/bubble"
)

// byTag returns an environment whose group has these tags, and a handler that knows groups by the tag team=payments, and one by name.
func byTag(tags map[string]string) (*testEnv, *Handler) {
	env := newTestEnv()
	env.node.Add(web("web"), time.Second)
	env.tags = tags
	env.peers = []Instance{{ID: "i-0def", State: "Terminating:Wait"}}
	h := env.handler()
	h.Policy.Owns = config.Groups{Names: config.Globs{"batch"}, Tags: []config.Tag{{Key: "team", Value: "payments"}}}.Match
	h.Policy.GroupsByTag = true
	return env, h
}

var payments = map[string]string{"team": "payments"}

func TestDrain_GroupByTag_AskedOnceAndDrained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := byTag(payments)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []string{
			"acquire", "cordon node-i-0abc1234", "taint node-i-0def", "evict app/web", "volumes", "complete t-1 CONTINUE", "release",
		}, env.effects())
		require.Equal(t, []string{"workers-a"}, env.groupsAsked, "one request tells tags and peers")
	})
}

// While the description lags, other instances begin to terminate.
func TestDrain_GroupByTagDescribedLate_PeersAskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := byTag(payments)
		env.state, env.peers = inService, nil
		time.AfterFunc(3*time.Second, func() {
			env.setState("Terminating:Wait")
			env.mu.Lock()
			defer env.mu.Unlock()
			env.peers = []Instance{{ID: "i-0fed", State: "Terminating:Wait"}}
		})
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Contains(t, env.effects(), "taint node-i-0fed")
		require.Len(t, env.groupsAsked, 2)
	})
}

func TestEvent_GroupWithoutTag_NotOurs(t *testing.T) {
	for name, tags := range map[string]map[string]string{
		"no tags": nil, "another value": {"team": "search"}, "another key": {"Team": "payments"},
	} {
		for _, state := range []string{"Terminating:Wait", "Warmed:Pending:Wait"} {
			bubble.Test(t, func(t *testing.T) {
				env, h := byTag(tags)
				env.state = state
				m := &fakeMetrics{}
				h.Metrics, h.Archive = m, m
				report, err := invoke(t, h)
				require.NoError(t, err, name)
				require.Equal(t, StatusSkipped, report.Status, name)
				require.Equal(t, "group workers-a is not managed by quiesce", report.Reason, name)
				require.Equal(t, []string{"workers-a"}, env.groupsAsked, name)
				require.Empty(t, env.effects(), name)
				require.Empty(t, env.heartbeats, name)
				require.Empty(t, m.invocations, name)
				require.Empty(t, m.archived, name)
			})
		}
	}
}

func TestEvent_GroupThatNameDecides_NotAskedFor(t *testing.T) {
	for _, c := range []struct {
		name   string
		event  Termination
		byTag  bool
		status Status
	}{
		{"another hook", Termination{Group: "workers-a", Hook: "theirs", InstanceID: event.InstanceID}, true, StatusSkipped},
		{"no tags configured", event, false, StatusSkipped},
		{"ours by name", Termination{Group: "batch", Hook: "quiesce", Token: "t-1", InstanceID: event.InstanceID}, true, StatusDrained},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h := byTag(payments)
			h.Policy.GroupsByTag, env.group = c.byTag, c.event.Group
			if c.status == StatusDrained {
				env.failAlways("group", errors.New("Rate exceeded")) // only the peers are not known then
			}
			report, err := deliver(t, h, Record{Termination: &c.event})
			require.NoError(t, err, c.name)
			require.Equal(t, c.status, report.Status, c.name)
			require.Empty(t, env.groupsAsked, c.name)
		})
	}
}

// A group that nobody could ask about was taken for somebody else's, and its node was terminated undrained.
func TestEvent_GroupNotDescribed_ComesAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := byTag(payments)
		q := &fakeQueue{testEnv: env}
		h.Queue = q
		heal := env.failAlways("group", errors.New("Rate exceeded"))
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1")))
		require.Equal(t, []string{"return m-1"}, env.effects(), "nothing is written")
		require.Equal(t, hiddenTime, q.hidesOf("m-1")[0].d, "it is hidden while its group is asked for")
		heal()
		require.Empty(t, deliverBatch(t, h, messageOf(event, "m-1")))
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestInterruption_GroupByTag_TagDecides(t *testing.T) {
	for _, c := range []struct {
		name   string
		tags   map[string]string
		err    error
		status Status
	}{
		{"ours", payments, nil, StatusDrained},
		{"theirs", nil, nil, StatusSkipped},
		{"not described", payments, errors.New("Rate exceeded"), StatusFailed},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h := byTag(c.tags)
			env.state, env.spot, env.interrupted, env.interruptedAt = inService, true, true, time.Now()
			if c.err != nil {
				env.failAlways("group", c.err)
			}
			report, err := deliver(t, h, triggered(SpotInterruption))
			require.ErrorIs(t, err, c.err, c.name)
			require.Equal(t, c.status, report.Status, c.name)
			require.LessOrEqual(t, len(env.groupsAsked), 1, c.name)
			if c.status != StatusDrained {
				require.Empty(t, env.effects(), c.name)
			}
		})
	}
}

func TestManualDrain_GroupByTag_TagDecides(t *testing.T) {
	for _, c := range []struct {
		name       string
		tags       map[string]string
		allow      bool
		status     Status
		completed  []Result
		heartbeats bool
	}{
		{"ours", payments, false, StatusDrained, []Result{Continue}, true},
		{"theirs", nil, false, StatusRejected, nil, false},
		{"theirs, allowed", nil, true, StatusDrained, nil, false},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, h := byTag(c.tags)
			h.Policy.AllowManualDrain = c.allow
			report, err := deliver(t, h, Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}})
			require.NoError(t, err, c.name)
			require.Equal(t, c.status, report.Status, c.name)
			require.Equal(t, c.completed, env.completed, c.name)
			require.Equal(t, c.heartbeats, len(env.heartbeats) > 0, c.name)
			require.Equal(t, []string{"workers-a"}, env.groupsAsked, c.name)
		})
	}
	bubble.Test(t, func(t *testing.T) {
		env, h := byTag(payments)
		h.Policy.AllowManualDrain = true
		env.failAlways("group", errors.New("Rate exceeded"))
		_, err := deliver(t, h, Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}})
		require.ErrorContains(t, err, "Rate exceeded", "it might wait on our hook")
		require.Empty(t, env.effects())
	})
}

// An instance that is drained before it terminates is kept alive once it does.
func TestManualDrain_GroupByTagInService_HeartbeatsAreSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := byTag(payments)
		env.state, h.Policy.AllowManualDrain = inService, true
		env.node.Add(web("slow"), 3*time.Minute)
		time.AfterFunc(time.Minute, func() { env.setState("Terminating:Wait") })
		_, err := deliver(t, h, Record{Request: &Request{Action: ActionDrain, InstanceID: event.InstanceID}})
		require.NoError(t, err)
		require.NotEmpty(t, env.heartbeats)
	})
}

func TestSweep_GroupByTag_InstanceKeptAlive(t *testing.T) {
	for _, tags := range []map[string]string{payments, nil} {
		bubble.Test(t, func(t *testing.T) {
			env, h := byTag(tags)
			env.peers = nil
			report := sweepOnce(t, h)
			require.Equal(t, len(tags), report.Groups)
			require.Len(t, env.heartbeats, len(tags))
			require.Empty(t, env.groupsAsked, "the list has the tags")
		})
	}
}
