package drain_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// A webhook takes 1.5 s for each deletion, and there are five times as many pods as may be asked for at once.
func TestForce_ManyPodsSlowDeletions_AllToldInTime(t *testing.T) {
	for _, grace := range []time.Duration{0, 2 * s, 30 * s} {
		for _, takes := range []time.Duration{0, 1500 * time.Millisecond, 2 * s} {
			t.Run(fmt.Sprint(grace, " ", takes), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					node := draintest.New()
					for i := range 80 {
						budget := fmt.Sprint("team-", i)
						node.Add(graced(fmt.Sprint("web-", i), grace, "budget", budget), 0)
						node.Allow(budget, 0)
					}
					node.Slow(0, takes)
					report, n := drainWithin(t, 2*time.Minute, node)
					require.Len(t, n.deletions(), 80)
					for _, r := range n.deletions() {
						require.GreaterOrEqual(t, r.before, max(grace, s), "%s is told to stop with all its grace", r.pod)
						require.Less(t, r.before, grace+15*s, "%s is told too early", r.pod)
					}
					require.Empty(t, report.Remaining())
				})
			})
		}
	}
}

// Nothing told the drain how slow deletions are before the first one was answered.
func TestForce_ManyPodsVerySlowDeletions_EachIsAsked(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		for i := range 80 {
			budget := fmt.Sprint("team-", i)
			node.Add(graced(fmt.Sprint("web-", i), s, "budget", budget), 0)
			node.Allow(budget, 0)
		}
		node.Slow(0, 5500*time.Millisecond)
		_, n := drainWithin(t, 2*time.Minute, node)
		require.Len(t, n.deletions(), 80)
		for _, r := range n.deletions() {
			require.GreaterOrEqual(t, r.before, time.Duration(0), "%s is told after the deadline", r.pod)
		}
	})
}

// A webhook that takes as long as it may would never see a deletion through that is given up before.
func TestForce_DeletionSlowerThanTheTimeLeft_NotCancelled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", s, "budget", "b"), 0)
		node.Allow("b", 0)
		node.Slow(0, 9*s)
		report, n := drainWithin(t, 10*time.Minute, node)
		require.Len(t, n.deletions(), 1)
		require.NotZero(t, report.Pods[0].ForcedAt)
	})
}

func TestForce_PodArrivesAtTheLastMoment_IsDeleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("long"), time.Hour)
		node.Allow("b", 0)
		node.Slow(200*time.Millisecond, 0)
		time.AfterFunc(10*time.Minute-100*time.Millisecond, func() { node.Add(graced("late", 30*s, "budget", "b"), 0) })
		_, n := drainWithin(t, 10*time.Minute, node)
		require.Contains(t, n.order(), "delete late", "its eviction was blocked after the deadline")
	})
}

// waiting is a node whose API server never answers a deletion, and notes why it was cancelled.
type waiting struct {
	*timed
	ended error
	at    time.Time
}

func (w *waiting) Delete(ctx context.Context, _ drain.Ref, _ time.Duration) error {
	<-ctx.Done()
	w.ended, w.at = context.Cause(ctx), time.Now()
	return ctx.Err()
}

func TestRequests_InFlightAtTheDeadline_EndWhenTheyMust(t *testing.T) {
	invocation := errors.New("invocation ends")
	for name, c := range map[string]struct {
		ends, answersBy time.Duration // after the start of a drain of ten minutes
		want            time.Duration
	}{
		"by their own timeouts":      {ends: 10 * time.Minute, want: 10*time.Minute + 9*s},
		"before the invocation":      {ends: 10 * time.Minute, answersBy: 10*time.Minute + 4*s, want: 10*time.Minute + 4*s},
		"if it ends, at once":        {ends: 10*time.Minute - 2*s, want: 10*time.Minute - 2*s},
		"a timer may be a bit early": {ends: 10*time.Minute - time.Millisecond, want: 10*time.Minute + 9*s},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(graced("web", 0, "budget", "b"), 0)
				node.Allow("b", 0)
				by := drainer()
				began := time.Now()
				by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
				if c.answersBy > 0 {
					by.Limits.AnswersBy = began.Add(c.answersBy)
				}
				ctx, cancel := context.WithDeadlineCause(t.Context(), began.Add(c.ends), invocation)
				defer cancel()
				w := &waiting{timed: &timed{Cluster: node, deadline: by.Limits.Deadline}}
				report, _ := by.Drain(ctx, w, drain.Node{})
				require.WithinDuration(t, began.Add(c.want), w.at, s)
				require.Len(t, report.Remaining(), 1)
			})
		})
	}
}

const week = 7 * 24 * time.Hour

func TestEvict_GraceOutlastsTheDeadline_OnlyTheTimeLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("week", week), week).Add(graced("web", 30*s), s)
		_, n := drainWithin(t, 10*time.Minute, node)
		grace := map[string]time.Duration{}
		for _, r := range n.asked {
			grace[r.pod] = r.grace
		}
		require.Equal(t, map[string]time.Duration{"week": 10 * time.Minute, "web": 0}, grace, "no more than there is, and else the pod's own")
		require.Len(t, n.asked, 2, "no pod is signaled twice")
	})
}

func TestEscort_GraceOutlastsTheDeadline_OnlyTheTimeLeft(t *testing.T) {
	for _, wish := range []time.Duration{0, time.Minute, 2 * week} {
		bubble.Test(t, func(t *testing.T) {
			e := &escort{ready: 2 * s, options: []drain.EvictOptions{{Grace: wish}}}
			node := draintest.New().Add(graced("pooler", week, "phase", "poolers"), 20*s)
			_, n := drainBy(t, withLead(e), 10*time.Minute, node)
			require.Equal(t, 10*time.Minute-2*s, n.asked[0].grace)
		})
	}
}

// Someone else told these pods to stop. What keeps one of them from its signal, such as a preStop hook, would last longer than its instance.
func TestShorten_TerminationOutlastsTheDeadline_OnceAndLate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		for name, stops := range map[string]time.Duration{"week": week, "soon": 9 * time.Minute, "close": 10*time.Minute + 2*s} {
			p := graced(name, stops)
			p.Deleted, p.StopsBy = time.Now(), time.Now().Add(stops)
			node.Add(p, stops)
		}
		node.Fail("delete app/week", errors.New("etcd is away"))
		report, n := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, []string{"delete week", "delete week"}, n.order(), "the first one failed")
		require.InDelta(t, (30*s + asking).Seconds(), n.asked[0].before.Seconds(), 0.1)
		require.Equal(t, 32*s, n.asked[1].grace)
		week := report.Pods[2]
		require.Zero(t, week.ForcedAt)
		require.Contains(t, week.Reason, "grace period shortened to 32s to meet the deadline")
	})
}

func TestShorten_LongTermination_OnlyWithForceAfterHalf(t *testing.T) {
	for force, want := range map[bool]int{true: 1, false: 0} {
		bubble.Test(t, func(t *testing.T) {
			p := graced("week", week)
			p.Deleted, p.StopsBy = time.Now(), time.Now().Add(week)
			node := draintest.New().Add(p, week)
			by := drainer()
			by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(40 * s), Force: force}
			n := &timed{Cluster: node, deadline: by.Limits.Deadline}
			by.Drain(within(t, 40*s), n, drain.Node{})
			require.Len(t, n.asked, want, strings.Join(node.Log(), "\n"))
			if force {
				require.Equal(t, 20*s, n.asked[0].before)
			}
		})
	}
}

// A Spot interruption shortens the deadline. What was evicted before has more grace than there is.
func TestShorten_DeadlineMovesEarlier_OwnEvictionShortened(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 8*time.Minute), week)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(20 * time.Minute), Force: true}
		_, state := by.Drain(within(t, time.Minute), node, drain.Node{})
		by.Limits.Deadline = time.Now().Add(100 * s)
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		report, _ := by.Resume(within(t, 100*s), n, drain.Node{}, state)
		require.Equal(t, []string{"delete web"}, n.order())
		require.Zero(t, report.Pods[0].ForcedAt)
	})
}
