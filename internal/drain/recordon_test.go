package drain_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// Someone uncordons the node, and a Deployment scales up.
func TestRecordon_NodeUncordoned_CordonedAgainAndArrivalsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", time.Minute), time.Minute)
		node.Slow(0, 0)
		time.AfterFunc(5*s, func() {
			node.Uncordon()
			for i := range 29 {
				p := graced(fmt.Sprint("web-", i), 30*s)
				p.ControllerUID, p.Created, p.CreatedAfterCordon = "web", time.Now(), true
				node.Add(p, s)
			}
		})
		by := drainer()
		began := time.Now()
		by.Recordon, by.Records = func(ctx context.Context) (time.Time, error) {
			time.Sleep(200 * time.Millisecond)
			return node.Recordon(ctx)
		}, &draintest.Records{}
		by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
		report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{Cordoned: began})
		require.Equal(t, 1, report.Recordons)
		require.Equal(t, 1, count(node, "recordon"))
		require.Equal(t, 30, count(node, "evict "))
		for _, p := range report.Pods {
			require.Equal(t, drain.Evicted, p.Outcome, "%s: %s", p.Name, p.Reason)
		}
	})
}

// The first cordon of a node that was tainted comes late. One that is denied is not tried at every look.
func TestRecordon_Denied_TriedAndSaidOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, tries := draintest.New().Add(graced("slow", time.Hour), time.Hour), 0
		node.Uncordon()
		by := drainer()
		by.Recordon = func(context.Context) (time.Time, error) {
			tries++
			return time.Time{}, fmt.Errorf("cordon node: %w", &drain.Refused{Reason: "denied by a policy"})
		}
		by.Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, 1, tries)
	})
}

// A taint that fails is tried again while a pod delays the cordon, and one that is denied is not.
func TestTaint_FailsWhileThePrimaryStays_TriedAgainUnlessDenied(t *testing.T) {
	for name, c := range map[string]struct {
		fails error
		tries int
	}{
		"no answer": {errors.New("etcd is away"), 3}, "denied": {fmt.Errorf("taint node: %w", &drain.Refused{Reason: "denied by a policy"}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(pod("pg-0", "phase", "databases", "role", "primary"), time.Second)
				node.Uncordon()
				by, tries := holding(&holder{until: time.Now().Add(5 * time.Minute)}), 0
				by.Recordon = node.Recordon
				by.Taint = func(context.Context) (time.Time, error) {
					if tries++; tries < 3 {
						return time.Time{}, c.fails
					}
					return time.Now(), nil
				}
				report, _ := by.Drain(within(t, time.Hour), node, drain.Node{})
				require.Equal(t, c.tries, tries)
				require.Zero(t, report.Recordons)
			})
		})
	}
}

func TestRecordon_AgainAndAgain_AtMostTenTimes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", time.Hour), time.Hour)
		for i := range 20 {
			time.AfterFunc(time.Duration(5*i)*s, node.Uncordon)
		}
		by := drainer()
		by.Recordon = node.Recordon
		_, state := by.Drain(within(t, time.Minute), node, drain.Node{Cordoned: time.Now()})
		report, _ := by.Resume(within(t, time.Hour), node, drain.Node{Cordoned: time.Now()}, state)
		require.Equal(t, 10, report.Recordons)
		require.Equal(t, 10, count(node, "recordon"))
	})
}

// The API server refused the cordon for a while. Pods that came to the open node are evicted like those before.
func TestRecordon_NeverCordoned_ClosedWhenItCanBe(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", time.Hour), time.Minute)
		node.Uncordon()
		node.Fail("recordon", errors.New("etcd is away"))
		by := drainer()
		by.Recordon = node.Recordon
		time.AfterFunc(10*s, node.Uncordon)
		_, state := by.Drain(within(t, 5*s), node, drain.Node{})
		require.Equal(t, 1, count(node, "recordon"))
		report, _ := by.Resume(within(t, time.Hour), node, drain.Node{}, state)
		require.Equal(t, 2, count(node, "recordon"))
		require.Equal(t, 1, report.Recordons, "someone opened it once")
	})
}

func TestRecordon_Fails_RetriedWithBackoff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", time.Hour), time.Minute)
		node.Fail("recordon", errors.New("etcd is away"), errors.New("etcd is away"), errors.New("etcd is away"))
		node.Uncordon()
		by := drainer()
		by.Recordon = node.Recordon
		report, _ := by.Drain(within(t, time.Hour), node, drain.Node{Cordoned: time.Now()})
		require.Equal(t, 1, report.Recordons)
		require.Equal(t, 3, count(node, "fail recordon"))
	})
}

func TestRecordon_Hangs_DrainGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", s), s)
		node.Uncordon()
		by := drainer()
		by.Recordon = func(ctx context.Context) (time.Time, error) { <-ctx.Done(); return time.Time{}, ctx.Err() }
		began := time.Now()
		report, _ := by.Drain(within(t, time.Hour), node, drain.Node{Cordoned: began})
		require.Equal(t, began, report.Pods[0].EvictedAt)
		require.LessOrEqual(t, time.Since(began), 21*s)
		require.Zero(t, report.Recordons)
	})
}

// lagging is a node whose watch shows it open for a while after it was cordoned.
type lagging struct {
	*draintest.Cluster
	until time.Time
	at    time.Time // when it was cordoned
}

func (l *lagging) Node() drain.NodeState {
	state := l.Cluster.Node()
	state.Uncordoned = state.Uncordoned || time.Now().Before(l.until)
	return state
}

// Recordon returns when the node was cordoned, whether or not this request did that.
func (l *lagging) Recordon(ctx context.Context) (time.Time, error) {
	if !l.Cluster.Node().Uncordoned {
		return l.at, nil
	}
	at, err := l.Cluster.Recordon(ctx)
	l.at = at
	return at, err
}

// A watch that shows the old state for a while is not a second person.
func TestRecordon_WatchLags_CountedOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		node := &lagging{Cluster: draintest.New().Add(graced("slow", time.Hour), 5*time.Minute), until: began.Add(40 * s)}
		time.AfterFunc(5*s, node.Uncordon)
		time.AfterFunc(2*time.Minute, node.Uncordon)
		by := drainer()
		by.Recordon = node.Recordon
		node.at = began.Add(-time.Minute)
		report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{Cordoned: node.at})
		require.Equal(t, 2, report.Recordons)
		require.Equal(t, 2, count(node.Cluster, "recordon"))
	})
}

func TestNode_Replaced_DrainEndsAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", time.Hour), time.Hour).Add(graced("web", time.Hour, "budget", "b"), 0)
		node.Allow("b", 0)
		time.AfterFunc(5*s, func() { node.Replace(); node.Add(graced("other", s), s) })
		by := drainer()
		began := time.Now()
		by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
		report, state := by.Drain(within(t, 10*time.Minute), node, drain.Node{Cordoned: began})
		require.ErrorIs(t, state.Err(), drain.ErrNodeReplaced)
		require.Equal(t, 5*s, time.Since(began))
		require.Zero(t, count(node, "evict app/other"))
		require.Len(t, report.Remaining(), 2)
	})
}

func TestState_OrdinaryDrain_NoError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, state := drainer().Drain(within(t, time.Minute), draintest.New().Add(pod("web"), s), drain.Node{})
		require.NoError(t, state.Err())
	})
}
