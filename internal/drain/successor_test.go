package drain_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// pinned returns pods of one controller that brings its pods back to the node.
func pinned(node *draintest.Cluster, controller string, n int, grace time.Duration) {
	for i := range n {
		p := graced(fmt.Sprint(controller, "-first-", i), grace)
		p.Controller, p.ControllerName, p.ControllerUID = "ReplicaSet", controller, "uid-of-"+controller
		p.Created = time.Now().Add(-time.Hour)
		node.Bring(p, 2*s)
	}
}

// count returns how many effects of this kind there were.
func count(node *draintest.Cluster, effect string) (n int) {
	for _, line := range node.Log() {
		if strings.HasPrefix(line, effect) {
			n++
		}
	}
	return n
}

// drainClosed drains a node that was just closed, with force, by a deadline in ten minutes.
func drainClosed(t *testing.T, node drain.Cluster, records drain.Records) (drain.Report, time.Duration) {
	t.Helper()
	by := drainer()
	by.Records = records
	began := time.Now()
	by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
	report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{Cordoned: began})
	return report, time.Since(began)
}

func TestSuccessors_PinnedPods_OneAskedRestToldInTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, records := draintest.New(), &draintest.Records{}
		pinned(node, "pinned", 3, 30*s)
		node.Add(graced("web", 30*s), s)
		report, took := drainClosed(t, node, records)
		require.Equal(t, 3+1+1, count(node, "evict "), "three, the other pod, and one successor: %v", node.Log())
		require.Equal(t, 3, count(node, "delete "), "each of those that are there in the end, once")
		require.Less(t, took, 30*s)
		require.Empty(t, report.Remaining())
		remained := 0
		for _, p := range report.Pods {
			if p.Outcome == drain.Remained {
				remained++
				require.Contains(t, p.Reason, "ReplicaSet app/pinned brings its pods to this node")
			}
		}
		require.Equal(t, 6, remained, "three were told to stop, and three came for them")
		require.Len(t, records.All(), 1, "%v", records.All())
		for key := range records.All() {
			require.Regexp(t, "^successor[.]uid-of-pinned[.][0-9a-f]{16}$", key)
		}
	})
}

// lateCluster shows for a while that pods run which were told to stop, as a watch does whose event comes after the response.
type lateCluster struct {
	*draintest.Cluster
	late time.Duration
}

func (c lateCluster) Pods() []drain.Pod {
	pods := c.Cluster.Pods()
	for i, p := range pods {
		if p.Terminating() && time.Since(p.Deleted) < c.late {
			pods[i].Deleted, pods[i].StopsBy = time.Time{}, time.Time{}
		}
	}
	return pods
}

// A pod that came back and was told to stop has its grace too, though the watch shows later than the response that it stops.
func TestSuccessors_WatchIsLate_LastOnesAreAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		pinned(node, "pinned", 3, 30*s)
		drainClosed(t, lateCluster{node, 500 * time.Millisecond}, &draintest.Records{})
		require.Equal(t, 3, count(node, "delete "))
		log := node.Log()
		gone := 0
		for _, line := range log[slices.IndexFunc(log, func(line string) bool { return strings.HasPrefix(line, "delete ") }):] {
			if strings.HasPrefix(line, "gone ") {
				gone++
			}
		}
		require.Equal(t, 3, gone, "%v", log)
	})
}

// Without records the bound holds within the drain.
func TestSuccessors_NoRecords_Bounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		pinned(node, "pinned", 3, 30*s)
		drainClosed(t, node, nil)
		require.Equal(t, 3+1, count(node, "evict "))
		require.Equal(t, 3, count(node, "delete "))
	})
}

func TestSuccessors_NodeCouldNotBeClosed_Bounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		pinned(node, "pinned", 3, 30*s)
		drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 3+1, count(node, "evict "))
	})
}

func TestSuccessors_LaterInvocation_AsksNoOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, records := draintest.New(), &draintest.Records{}
		pinned(node, "pinned", 3, 30*s)
		node.Add(graced("stuck", 30*s, "budget", "b"), s)
		node.Allow("b", 0)
		by := drainer()
		by.Records = records
		closed := time.Now()
		by.Limits = drain.Limits{StartedAt: closed, Deadline: closed.Add(10 * time.Minute), Force: true}
		for range 3 { // each knows nothing but the records
			by.Drain(within(t, time.Minute), node, drain.Node{Cordoned: closed})
		}
		require.Equal(t, 3+1, count(node, "evict "))
		require.Zero(t, count(node, "delete "))
	})
}

// Others are still waited for until the deadline. The successors must be told before it, with their grace.
func TestSuccessors_DrainLastsToTheDeadline_ToldInTime(t *testing.T) {
	for name, force := range map[string]bool{"force": true, "keep": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New()
				pinned(node, "pinned", 3, 30*s)
				node.Add(graced("slow", time.Hour), time.Hour)
				by := drainer()
				by.Records = &draintest.Records{}
				began := time.Now()
				by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: force}
				n := &timed{Cluster: node, deadline: by.Limits.Deadline}
				report, state := by.Drain(within(t, 10*time.Minute), n, drain.Node{Cordoned: began})
				told := 0
				for _, r := range n.asked[3+1+1:] {
					told++
					require.Equal(t, force, r.delete)
					require.InDelta(t, (32 * s).Seconds(), r.before.Seconds(), 3)
				}
				require.Equal(t, 3, told, "%v", node.Log())
				report.CloseRemaining(state, "deadline reached")
				for _, p := range report.Pods {
					require.NotEqual(t, drain.Forced, p.Outcome)
				}
			})
		})
	}
}

func TestSuccessors_FinalDeletionRefused_TriedThreeTimes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		pinned(node, "pinned", 1, 30*s)
		for i := range 10 {
			node.Deny(fmt.Sprint("delete app/pinned-", i), denial)
		}
		report, took := drainClosed(t, node, &draintest.Records{})
		require.Less(t, took, time.Minute)
		require.Equal(t, 3, count(node, "deny delete app/pinned-2"))
		require.Equal(t, drain.Remained, report.Pods[1].Outcome)
		require.Empty(t, report.Remaining())
	})
}

// Its successor lands elsewhere when it can, though the pod tolerates the cordon and may be bound to the node.
func TestSuccessors_OneComesBackOnce_NodeIsEmpty(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("agent-1", 30*s), s)
		time.AfterFunc(2*s, func() {
			back := graced("agent-2", 30*s)
			back.Created, back.CreatedAfterCordon = time.Now(), true
			node.Add(back, s)
		})
		node.Add(graced("slow", 30*s), 10*s)
		report, _ := drainClosed(t, node, &draintest.Records{})
		require.Empty(t, report.Remaining())
		for _, p := range report.Pods {
			require.Equal(t, drain.Evicted, p.Outcome, "%s: %s", p.Name, p.Reason)
		}
	})
}

// It had waited for a node, and was bound when the node was closed.
func TestSuccessors_PodsCreatedBeforeTheCordon_AreOrdinary(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", 30*s), 10*s)
		time.AfterFunc(s, func() {
			for i := range 5 {
				late := graced(fmt.Sprint("late-", i), 30*s)
				late.ControllerUID, late.Created, late.CreatedAfterCordon = "one", time.Now().Add(-time.Minute), true
				node.Add(late, s)
			}
		})
		report, _ := drainClosed(t, node, &draintest.Records{})
		for _, p := range report.Pods {
			require.Equal(t, drain.Evicted, p.Outcome, "%s: %s", p.Name, p.Reason)
		}
	})
}

func TestSuccessors_PodsWithoutController_OnePerNamespace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("slow", 30*s), 10*s)
		time.AfterFunc(s, func() {
			for i := range 5 {
				bare := graced(fmt.Sprint("bare-", i), 30*s)
				bare.Namespace, bare.Created, bare.CreatedAfterCordon = fmt.Sprint("team-", i%2), time.Now(), true
				node.Add(bare, s)
			}
		})
		drainClosed(t, node, &draintest.Records{})
		require.Equal(t, 2, count(node, "evict team-"))
		require.Equal(t, 3, count(node, "delete team-"))
	})
}

// The author of a pod chooses the UID of its owner. That must not affect a controller of another namespace.
func TestSuccessors_ForeignUID_OtherNamespaceUnaffected(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, records := draintest.New().Add(graced("slow", 30*s), 20*s), &draintest.Records{}
		owner := strings.Repeat("a", 36) // of the web pods
		for i, namespace := range []string{"attacker", "attacker", "app"} {
			p := graced(fmt.Sprint("web-", i), 30*s)
			p.Namespace, p.ControllerUID = namespace, owner
			time.AfterFunc(time.Duration(i+1)*s, func() {
				p.Created, p.CreatedAfterCordon = time.Now(), true
				node.Add(p, s)
			})
		}
		report, _ := drainClosed(t, node, records)
		require.Equal(t, 1, count(node, "evict app/web-2"), "%v", node.Log())
		require.Equal(t, 1, count(node, "evict attacker/"))
		require.Empty(t, report.Remaining())
		require.Len(t, records.All(), 2)
		for key := range records.All() {
			require.LessOrEqual(t, len(key), 63, "the name of an annotation")
		}
	})
}

func TestRecord_OrdinaryDrain_NoRequests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, records := draintest.New(), &draintest.Records{}
		for i := range 20 {
			node.Add(graced(fmt.Sprint("web-", i), 30*s), s)
		}
		report, _ := drainClosed(t, node, records)
		require.Empty(t, report.Remaining())
		require.Empty(t, records.All())
	})
}

func TestSuccessors_RecordFails_DrainGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, records := draintest.New(), &draintest.Records{}
		records.Fail(errors.New("etcd is away"))
		pinned(node, "pinned", 3, 30*s)
		drainClosed(t, node, records)
		require.Equal(t, 3+1, count(node, "evict "))
		require.Equal(t, 3, count(node, "delete "))
	})
}

// The requests for one controller are bounded, and no pod is signaled twice, whatever happens to the node.
func TestSuccessors_RandomNodes_SignalsBounded(t *testing.T) {
	for seed := range uint64(200) {
		bubble.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			node, had := draintest.New(), map[string]int{}
			for c := range 1 + r.IntN(4) {
				name := fmt.Sprint("set-", c)
				had[name] = 1 + r.IntN(4)
				pinned(node, name, had[name], time.Duration(r.IntN(40))*s)
			}
			if r.IntN(2) == 0 {
				node.Add(graced("slow", 10*time.Minute), time.Duration(r.IntN(900))*s)
			}
			for range r.IntN(4) {
				time.AfterFunc(time.Duration(r.IntN(60))*s, node.Uncordon)
			}
			if r.IntN(3) == 0 {
				node.Fail("recordon", errors.New("etcd is away"))
			}
			node.Slow(time.Duration(r.IntN(1500))*time.Millisecond, time.Duration(r.IntN(1500))*time.Millisecond)
			by := drainer()
			by.Recordon = node.Recordon
			if r.IntN(2) == 0 {
				by.Records = &draintest.Records{}
			}
			began := time.Now()
			by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: r.IntN(2) == 0}
			report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{Cordoned: began})
			for name, n := range had {
				evicted, deleted := count(node, "evict app/"+name+"-"), count(node, "delete app/"+name+"-")
				require.LessOrEqual(t, evicted+deleted, n*(1+report.Recordons)+1+n, "seed %d, %s of %d: %v", seed, name, n, node.Log())
			}
			told := map[string]bool{}
			for _, line := range node.Log() {
				fields := strings.Fields(line)
				if fields[0] == "evict" || fields[0] == "delete" {
					require.False(t, told[fields[1]], "seed %d: %s was told twice", seed, fields[1])
					told[fields[1]] = true
				}
			}
			time.Sleep(time.Hour)
		})
	}
}
