package drain_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

const denial = `admission webhook "no.example.com" denied the request: not on a Friday`

func TestRefused_PodStays_OutcomeAndTextInReport(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0).Add(pod("free"), 0)
		node.Deny("app/web", denial)
		report, state := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		web := report.Pods[1]
		require.Equal(t, drain.StillRefused, web.Outcome)
		require.Equal(t, "refused: "+denial, web.Reason)
		require.Len(t, report.Remaining(), 1, "a later invocation asks again")
		report.CloseRemaining(state, "deadline reached")
		require.Equal(t, drain.Remained, report.Pods[1].Outcome)
		require.Contains(t, report.Pods[1].Reason, denial)
	})
}

// The invocation ends while the next request is under way. Its report still names the webhook, and the log does not speak of a failure.
func TestRefused_RequestUnderWayAtTheEnd_ReasonStays(t *testing.T) {
	for name, hasDeadline := range map[string]bool{"hand-off": false, "deadline": true} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(pod("web"), 0)
				node.Deny("app/web", denial)
				time.AfterFunc(5*s, func() { node.Slow(time.Hour, 0) })
				var log strings.Builder
				by := drainer()
				by.Log = slog.New(slog.NewTextHandler(&log, nil))
				if hasDeadline {
					by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(time.Minute)}
				}
				report, _ := by.Drain(within(t, time.Minute), node, drain.Node{})
				require.Equal(t, drain.StillRefused, report.Pods[0].Outcome)
				require.Equal(t, "refused: "+denial, report.Pods[0].Reason)
				require.NotContains(t, log.String(), "eviction failed")
			})
		})
	}
}

func TestRefused_WebhookRelents_PodEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Deny("app/web", denial)
		time.AfterFunc(20*s, func() { node.Deny("app/web", "") })
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.Empty(t, report.Pods[0].Reason)
	})
}

// A webhook that answers 429 is not an overloaded API server.
func TestRefused_OnePod_OthersNotSlowed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		for i := range 80 {
			node.Add(pod(fmt.Sprint("web-", i)), 0)
		}
		node.Add(pod("denied"), 0)
		node.Deny("app/denied", denial)
		node.Slow(s, 0)
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Len(t, report.Remaining(), 1)
		for _, p := range report.Pods[1:] {
			require.Less(t, p.EvictedAt.Sub(began), 9*s, "80 pods, soon 16 at once, 1 s each, and the one that is denied")
		}
		require.Less(t, strings.Count(strings.Join(node.Log(), "\n"), "deny app/denied"), 15, "it backs off")
	})
}

func TestRefused_DeletionToo_ReportedWithItsText(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s), 0)
		node.Deny("app/web", denial)
		node.Deny("delete app/web", "deletions too")
		report, n := drainWithin(t, 10*time.Minute, node)
		require.Empty(t, n.deletions())
		require.Equal(t, drain.StillRefused, report.Pods[0].Outcome)
		require.Equal(t, "refused: deletions too", report.Pods[0].Reason)
		require.Zero(t, report.Pods[0].ForcedAt)
	})
}

// Pods change all the time, and none of these changes helps.
func TestBlocked_Never_AskedOnceAMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		never := &drain.Blocked{PDBs: []string{"app/b"}, Reason: "SyncFailed", Never: true}
		node.Fail("app/web", never, never, never)
		<-node.Changed() // the pod is there from the start
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Equal(t, 3*time.Minute, report.Pods[0].EvictedAt.Sub(began))
	})
}

func TestBlocked_NeverThenRepaired_AskedAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Fail("app/web", &drain.Blocked{PDBs: []string{"app/b"}, Reason: "SyncFailed", Never: true})
		<-node.Changed()                                           // the pod is there from the start
		time.AfterFunc(5*s, func() { node.SetUnreachable(false) }) // any change
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Equal(t, 5*s, report.Pods[0].EvictedAt.Sub(began))
	})
}

func TestReport_TextFromOutside_Bounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Deny("app/web", strings.Repeat("é\xff", 100_000))
		report, state := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		report.CloseRemaining(state, "deadline reached")
		reason := report.Pods[0].Reason
		require.LessOrEqual(t, len(reason), 1024)
		require.True(t, utf8.ValidString(reason))
		require.True(t, strings.HasSuffix(reason, "; deadline reached"), "what is ours is not cut off")
	})
}
