package drain_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

func drainer(phases ...drain.Phase) drain.Drainer {
	if len(phases) == 0 {
		phases = []drain.Phase{{Name: "workloads"}}
	}
	return drain.Drainer{Phases: phases, Concurrency: 16, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func pod(name string, labels ...string) drain.Pod {
	p := drain.Pod{Ref: drain.Ref{Namespace: "app", Name: name, UID: "uid-" + name}, Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		p.Labels[labels[i]] = labels[i+1]
	}
	return p
}

func labeled(value string) func(drain.Pod) bool {
	return func(p drain.Pod) bool { return p.Labels["phase"] == value }
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestPhases_InOrder_AndSettle(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().
			Add(pod("dns", "phase", "critical"), time.Second).
			Add(pod("web"), time.Second).
			Add(pod("pooler", "phase", "poolers"), 2*time.Second)
		phases := []drain.Phase{
			{Name: "poolers", Match: labeled("poolers"), Settle: 5 * time.Second},
			{Name: "workloads"},
			{Name: "critical", Match: labeled("critical")},
		}
		began := time.Now()
		report, _ := drainer(phases...).Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, []string{
			"evict app/pooler", "gone app/pooler", "evict app/web", "gone app/web", "evict app/dns", "gone app/dns",
		}, node.Log())
		require.Equal(t, 9*time.Second, time.Since(began), "2 s to stop, 5 s to settle, 1 s and 1 s")
		require.Equal(t, began.Add(2*time.Second), report.Phases[0].FinishedAt)
		require.Empty(t, report.Remaining())
	})
}

func TestPhase_TimeoutOver_NextPhaseStarts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("stuck", "phase", "poolers", "budget", "b"), 0).Add(pod("web"), 0)
		node.Allow("b", 0)
		phases := []drain.Phase{{Name: "poolers", Match: labeled("poolers"), Timeout: 5 * time.Minute}, {Name: "workloads"}}
		began := time.Now()
		report, _ := drainer(phases...).Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Len(t, report.Remaining(), 1)
		require.Equal(t, drain.StillBlocked, report.Pods[0].Outcome)
		require.Equal(t, []string{"app/b"}, report.Pods[0].BlockedBy)
		require.Equal(t, began, report.Pods[0].BlockedAt, "when it was first refused")
		require.Equal(t, began.Add(5*time.Minute), report.Pods[1].EvictedAt)
	})
}

func TestBlocked_PDBHasRoomAgain_AllPodsEvictedAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		for i := range 4 {
			node.Add(pod(fmt.Sprint("web-", i), "budget", "b"), 0)
		}
		node.Allow("b", 0)
		freed := time.Now().Add(3 * time.Second)
		time.AfterFunc(3*time.Second, func() { node.Allow("b", 4) })
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		for _, p := range report.Pods {
			require.Equal(t, freed, p.EvictedAt, "%s", p.Name)
			require.Equal(t, []string{"app/b"}, p.BlockedBy)
		}
	})
}

// Other drains change the PDB all the time, and each change is worth another try for the pods that it blocks.
func TestBlocked_ManyPodsOfABusyPDB_OthersAreNotHeldBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		node.Slow(10*time.Millisecond, 0)
		node.Allow("b", 0)
		for i := range 20 {
			node.Add(pod(fmt.Sprint("blocked-", i), "budget", "b"), 0)
			node.Add(pod(fmt.Sprint("failing-", i)), 0).Fail(fmt.Sprint("app/failing-", i), errors.New("etcd is away"))
			node.Add(pod(fmt.Sprint("web-", i)), 0)
		}
		ctx := within(t, time.Second)
		var others sync.WaitGroup
		defer others.Wait()
		others.Go(func() {
			for ctx.Err() == nil {
				node.Allow("b", 0)
				time.Sleep(5 * time.Millisecond)
			}
		})
		began := time.Now()
		report, _ := drainer().Drain(ctx, node, drain.Node{})
		for _, p := range report.Pods {
			if !strings.HasPrefix(p.Name, "blocked-") {
				require.False(t, p.EvictedAt.IsZero(), p.Name)
				require.Less(t, p.EvictedAt.Sub(began), time.Second/2, p.Name)
			}
		}
	})
}

func TestBlocked_NoChangeSeen_EvictionRepeated(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Fail("app/web", &drain.Blocked{PDBs: []string{"app/b"}, Reason: "no"})
		<-node.Changed() // of the pod that was added
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, 10*time.Second, report.Pods[0].EvictedAt.Sub(began))
	})
}

func TestEvict_AnyOtherError_RetriedWithBackoff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Fail("app/web", slices.Repeat([]error{errors.New("admission webhook denied the request")}, 6)...)
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		took := report.Pods[0].EvictedAt.Sub(began)
		require.Greater(t, took, 12*time.Second, "six doublings from 0.2 s")
		require.Less(t, took, 16*time.Second)
	})
}

func TestThrottled_RetryAfter_IsRespected(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 0)
		node.Fail("app/web", &drain.Throttled{After: 7 * time.Second})
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		took := report.Pods[0].EvictedAt.Sub(began)
		require.GreaterOrEqual(t, took, 7*time.Second)
		require.Less(t, took, 7*time.Second*3/2, "others that were throttled with it come at other times")
	})
}

func TestEvict_ManyPods_MoreAtOnceUpToConcurrency(t *testing.T) {
	for takes, rounds := range map[time.Duration]int{
		100 * time.Millisecond: 5, // 2, 4, 8, 16, 10
		2 * time.Second:        8, // 2, 3, 4, 5, 6, 7, 8, 5: it may be busy with others
	} {
		bubble.Test(t, func(t *testing.T) {
			node := &slow{Cluster: draintest.New(), takes: takes}
			for i := range 40 {
				node.Add(pod(fmt.Sprint("web-", i)), 0)
			}
			began := time.Now()
			report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
			require.Empty(t, report.Remaining())
			require.Equal(t, time.Duration(rounds)*takes, time.Since(began))
		})
	}
}

// Many drains at once overload a server. Each of them must send less, or the server is busy with refusals; and more again when it has
// room.
func TestThrottled_ManyPods_FewerInFlight(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := &crowded{Cluster: draintest.New(), room: 3}
		for i := range 60 {
			node.Add(pod(fmt.Sprint("web-", i)), 0)
		}
		time.AfterFunc(10*time.Second, node.widen)
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Empty(t, report.Remaining())
		require.Less(t, node.refused, 40, "of 60 pods, in ten seconds")
		require.Greater(t, node.most, 2*3, "when there was room again")
	})
}

// crowded is a node whose API server needs a second for each eviction, and allows few at once.
type crowded struct {
	*draintest.Cluster
	mu                            sync.Mutex
	room, underWay, refused, most int
}

// widen gives it more room, and starts to count anew how much of it is used.
func (c *crowded) widen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room, c.most = 100, 0
}

func (c *crowded) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if !c.enter() {
		return &drain.Throttled{After: time.Second}
	}
	time.Sleep(time.Second)
	c.mu.Lock()
	c.underWay--
	c.mu.Unlock()
	return c.Cluster.Evict(ctx, ref, o)
}

func (c *crowded) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay >= c.room {
		c.refused++
		return false
	}
	c.underWay++
	c.most = max(c.most, c.underWay)
	return true
}

// slow is a node whose API server answers each eviction after some time.
type slow struct {
	*draintest.Cluster
	takes time.Duration
}

func (s *slow) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	select {
	case <-time.After(s.takes):
		return s.Cluster.Evict(ctx, ref, o)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestDrain_ContextEnds_ReportsWhatRemains(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		held := pod("batch")
		held.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
		node := draintest.New().Add(held, 0).Add(pod("web"), time.Hour)
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, time.Minute, time.Since(began))
		require.Equal(t, []string{"evict app/web"}, node.Log())
		require.Len(t, report.Remaining(), 2)
		require.Equal(t, drain.Hold, report.Pods[0].Verdict)
		require.Equal(t, drain.Waiting, report.Pods[1].Outcome)
		require.False(t, report.Pods[1].EvictedAt.IsZero())
	})
}

func TestDrain_PodArrivesLate_IsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), 5*time.Second)
		time.AfterFunc(time.Second, func() { node.Add(pod("late"), 0) })
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Len(t, report.Pods, 2)
		require.Contains(t, node.Log(), "evict app/late")
	})
}

func TestDrain_SuccessorOfTheSameName_IsAnotherPod(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("db-0"), 0)
		reborn := pod("db-0")
		reborn.UID = "second"
		time.AfterFunc(0, func() { node.Add(reborn, 0) })
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Empty(t, report.Remaining())
		require.NotEmpty(t, report.Pods)
	})
}

func TestReason_EvictionAnsweredLate_StaysTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := &belated{Cluster: draintest.New().Add(pod("web"), time.Hour), by: 20 * s}
		node.SetUnreachable(true)
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{Unreachable: true})
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "unreachable")
		require.False(t, report.Pods[0].EvictedAt.IsZero())
	})
}

// belated is a node whose watch shows an eviction before the API server answers it.
type belated struct {
	*draintest.Cluster
	by time.Duration
}

func (b *belated) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	err := b.Cluster.Evict(ctx, ref, o)
	<-time.After(b.by)
	return err
}
