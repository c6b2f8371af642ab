package drain_test

import (
	"context"
	"errors"
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

// timed is a node that notes each request, with its time.
type timed struct {
	*draintest.Cluster
	deadline time.Time

	mutex sync.Mutex
	asked []request
}

// request is one that the API server accepted or refused.
type request struct {
	pod    string
	delete bool
	before time.Duration // the deadline
	grace  time.Duration
	err    error
}

func (n *timed) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	err := n.Cluster.Evict(ctx, ref, o)
	n.note(request{pod: ref.Name, grace: o.Grace, err: err})
	return err
}

func (n *timed) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	err := n.Cluster.Delete(ctx, ref, grace)
	n.note(request{pod: ref.Name, delete: true, grace: grace, err: err})
	return err
}

func (n *timed) note(r request) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	r.before = time.Until(n.deadline)
	n.asked = append(n.asked, r)
}

// deletions returns the deletions that were accepted, by pod.
func (n *timed) deletions() map[string]request {
	found := map[string]request{}
	for _, r := range n.asked {
		if r.delete && r.err == nil {
			found[r.pod] = r
		}
	}
	return found
}

// evictions returns how long before the deadline each eviction of the pod was requested.
func (n *timed) evictions(pod string) (before []time.Duration) {
	for _, r := range n.asked {
		if r.pod == pod && !r.delete {
			before = append(before, r.before)
		}
	}
	return before
}

func (n *timed) order() (what []string) {
	for _, r := range n.asked {
		verb := "evict "
		if r.delete {
			verb = "delete "
		}
		what = append(what, verb+r.pod)
	}
	return what
}

// at returns a deletion this long before the deadline, with this grace.
func at(before, grace time.Duration) request {
	return request{delete: true, before: before, grace: grace}
}

// graced returns a pod with a grace period, and a PDB if the label budget names one.
func graced(name string, grace time.Duration, labels ...string) drain.Pod {
	p := pod(name, labels...)
	p.Grace = grace
	return p
}

// drainWithin drains a node by a deadline, with force.
func drainWithin(t *testing.T, d time.Duration, node *draintest.Cluster, phases ...drain.Phase) (drain.Report, *timed) {
	t.Helper()
	return drainBy(t, drainer(phases...), d, node)
}

func drainBy(t *testing.T, by drain.Drainer, d time.Duration, node *draintest.Cluster) (drain.Report, *timed) {
	t.Helper()
	began := time.Now()
	by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(d), Force: true}
	n := &timed{Cluster: node, deadline: by.Limits.Deadline}
	report, _ := by.Drain(within(t, d), n, drain.Node{})
	return report, n
}

// asking is what it takes to ask while no deletion was measured. In a fake, deletions then take no time.
const asking = 2 * time.Second

// requireDeletions compares the deletions with what is wanted. They may be earlier by what it takes to ask for a few pods.
func requireDeletions(t *testing.T, n *timed, want map[string]request) {
	t.Helper()
	got := n.deletions()
	require.Len(t, got, len(want))
	for name, w := range want {
		require.Equal(t, w.grace, got[name].grace, name)
		early := got[name].before - w.before
		require.True(t, early >= 0 && early <= 3*asking, "%s is deleted %s before the deadline", name, got[name].before)
	}
}

const s = time.Second

func TestForce_PDBNeverAllows_DeletedWithFullGrace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 10*s)
		node.Allow("b", 0)
		report, n := drainWithin(t, 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"web": at(30*s, 30*s)})
		require.Equal(t, 30*s+asking, slices.Min(n.evictions("web")), "its eviction was requested once more")
		web := report.Pods[0]
		require.Equal(t, drain.Forced, web.Outcome)
		require.Equal(t, "deadline: deleted with 30s of its 30s grace; blocked by app/b: no disruption allowed", web.Reason)
		require.Equal(t, []string{"app/b"}, web.BlockedBy)
		require.Zero(t, web.EvictedAt)
		require.Equal(t, 10*s, web.GoneAt.Sub(web.ForcedAt))
		require.Empty(t, report.Remaining())
	})
}

func TestForce_LongGrace_NotInTheFirstHalf(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		report, n := drainWithin(t, 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"web": at(5*time.Minute, 5*time.Minute)})
		require.Contains(t, report.Pods[0].Reason, "deleted with 5m0s of its 1h0m0s grace")
	})
}

func TestForce_PDBAllowsAtTheLastMoment_PodIsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s), 10*s)
		node.Fail("app/web", &drain.Blocked{PDBs: []string{"app/b"}}) // then its PDB has room, but no change is seen
		<-node.Changed()
		report, n := drainWithin(t, 70*s, node)
		require.Empty(t, n.deletions())
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
	})
}

// Behind a stuck phase, time is short before any eviction was tried.
func TestForce_PodBehindAStuckPhase_TriedFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("stuck", 30*s, "phase", "poolers", "budget", "a"), 0).
			Add(graced("free", 30*s), 0).Add(graced("kept", 30*s, "budget", "b"), 0)
		node.Allow("a", 0)
		node.Allow("b", 0)
		phases := []drain.Phase{{Name: "poolers", Match: labeled("poolers")}, {Name: "workloads"}}
		report, n := drainWithin(t, 10*time.Minute, node, phases...)
		requireDeletions(t, n, map[string]request{"stuck": at(30*s, 30*s), "kept": at(30*s, 30*s)})
		require.Equal(t, []time.Duration{2 * (30*s + asking)}, n.evictions("free"))
		require.Equal(t, 2*(30*s+asking), n.evictions("kept")[0])
		require.Len(t, report.Phases, 2)
		require.NotZero(t, report.Phases[1].StartedAt)
	})
}

func TestForce_PodsOfOnePDB_OneAfterTheOther(t *testing.T) {
	for name, c := range map[string]struct {
		stop time.Duration
		want map[string]request
	}{
		"pods that need all their grace": {
			stop: time.Hour, want: map[string]request{"a": at(90*s, 30*s), "b": at(60*s, 30*s), "c": at(30*s, 30*s), "alone": at(30*s, 30*s)},
		},
		"pods that stop at once do not start earlier or later": {
			stop: s, want: map[string]request{"a": at(90*s, 30*s), "b": at(60*s, 30*s), "c": at(30*s, 30*s), "alone": at(30*s, 30*s)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(graced("alone", 30*s, "budget", "other"), c.stop)
				for _, name := range []string{"a", "b", "c"} {
					node.Add(graced(name, 30*s, "budget", "b"), c.stop)
				}
				node.Allow("b", 0)
				node.Allow("other", 0)
				_, n := drainWithin(t, 10*time.Minute, node)
				requireDeletions(t, n, c.want)
			})
		})
	}
}

func TestForce_PDBHasRoomAgain_NextPodIsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("a", 30*s, "budget", "b"), s).Add(graced("b", 30*s, "budget", "b"), s)
		node.Allow("b", 0)
		time.AfterFunc(9*time.Minute+10*s, func() { node.Allow("b", 1) }) // the first is replaced
		report, n := drainWithin(t, 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"a": at(60*s, 30*s)})
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Equal(t, drain.Evicted, report.Pods[1].Outcome)
	})
}

// A pod that outlasts its grace must not take the grace of the next.
func TestForce_PodOutlastsItsGrace_NextIsNotDelayed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("a", 30*s, "budget", "b"), time.Hour).Add(graced("b", 30*s, "budget", "b"), s)
		node.Allow("b", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute), Force: true}
		node.Outlast("app/a")
		node.Outlast("app/b")
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		by.Drain(within(t, 10*time.Minute), n, drain.Node{})
		requireDeletions(t, n, map[string]request{"a": at(60*s, 30*s), "b": at(30*s, 30*s)})
	})
}

func TestForce_PodsWithoutPDB_Together(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		denied := errors.New("admission webhook denied the request")
		node := draintest.New().Add(graced("a", 30*s), 0).Add(graced("b", 30*s), 0)
		node.Fail("app/a", slices.Repeat([]error{denied}, 1000)...)
		node.Fail("app/b", slices.Repeat([]error{denied}, 1000)...)
		report, n := drainWithin(t, 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"a": at(30*s, 30*s), "b": at(30*s, 30*s)})
		require.Equal(t, "deadline: deleted with 30s of its 30s grace; "+denied.Error(), report.Pods[0].Reason)
	})
}

func TestForce_HeldPod_EvictedThenDeletedWhenDue(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		batch, free := held(graced("batch", 30*s, "budget", "b")), held(graced("free", 60*s))
		node := draintest.New().Add(batch, s).Add(free, s)
		node.Allow("b", 0)
		report, n := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, []string{"evict free", "evict batch", "delete batch"}, n.order())
		require.Equal(t, []time.Duration{60*s + asking}, n.evictions("free"))
		require.Equal(t, []time.Duration{30*s + asking}, n.evictions("batch"))
		requireDeletions(t, n, map[string]request{"batch": at(30*s, 30*s)})
		require.Equal(t, drain.Hold, report.Pods[0].Verdict)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "annotated karpenter.sh/do-not-disrupt; blocked by app/b")
		require.Equal(t, drain.Evicted, report.Pods[1].Outcome)
		require.Equal(t, "annotated karpenter.sh/do-not-disrupt", report.Pods[1].Reason)
	})
}

func TestKeep_Deadline_NothingDeletedHeldPodsStay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("stuck", 30*s, "phase", "poolers", "budget", "b"), 0).Add(held(graced("batch", 30*s)), 0).
			Add(graced("web", 30*s), s)
		node.Allow("b", 0)
		by := drainer(drain.Phase{Name: "poolers", Match: labeled("poolers")}, drain.Phase{Name: "workloads"})
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute)}
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		report, state := by.Drain(within(t, 10*time.Minute), n, drain.Node{})
		require.Empty(t, n.deletions())
		require.Empty(t, n.evictions("batch"))
		require.Equal(t, []time.Duration{60 * s}, n.evictions("web"), "a stuck phase does not hold back the next for ever")
		report.CloseRemaining(state, "deadline reached")
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, "blocked by app/b: no disruption allowed; deadline reached", report.Pods[0].Reason)
		require.Equal(t, "annotated karpenter.sh/do-not-disrupt; deadline reached", report.Pods[1].Reason)
		require.Equal(t, drain.Evicted, report.Pods[2].Outcome)
	})
}

func TestForce_DeletionFails_RetriedWithTheGraceLeft(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 5*s, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		node.Fail("delete app/web", slices.Repeat([]error{errors.New("etcd is away")}, 6)...)
		report, n := drainWithin(t, 10*time.Minute, node)
		last := n.asked[len(n.asked)-1]
		require.True(t, last.delete)
		require.NoError(t, last.err)
		require.InDelta(t, 7-0.2-0.4-0.8-0.7-0.6-0.5, last.before.Seconds(), 0.5, "six backoffs, no longer than an eighth of the time")
		require.Equal(t, 4*s, last.grace)
		require.Contains(t, report.Pods[0].Reason, "deleted with 4s of its 5s grace; etcd is away")
	})
}

func TestForce_DeletionExecutedNotAnswered_IsReported(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 10*s).Add(graced("quick", 30*s, "budget", "other"), 0)
		node.Allow("b", 0)
		node.Allow("other", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute), Force: true}
		report, _ := by.Drain(within(t, 10*time.Minute), mute{&timed{Cluster: node, deadline: by.Limits.Deadline}}, drain.Node{})
		for _, p := range report.Pods {
			require.Equal(t, drain.Forced, p.Outcome, p.Name)
			require.WithinRange(t, p.ForcedAt, by.Limits.Deadline.Add(-30*s-asking), by.Limits.Deadline.Add(-30*s))
			require.Contains(t, p.Reason, "deadline: deleted with 30s of its 30s grace; ")
		}
	})
}

// mute is a node whose API server executes deletions, and does not answer.
type mute struct{ *timed }

func (m mute) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	_ = m.timed.Delete(ctx, ref, grace)
	return errors.New("connection reset by peer")
}

// An API server that recovers near the end of the pod's grace is in time to have the pod signaled.
func TestForce_ServerRecoversAtTheLastMoment_AskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 2*time.Minute, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute), Force: true}
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		away := &away{timed: n, until: n.deadline.Add(-time.Second)}
		report, _ := by.Drain(within(t, 10*time.Minute), away, drain.Node{})
		require.Equal(t, s, n.deletions()["web"].grace)
		require.Contains(t, report.Pods[0].Reason, "deleted with 1s of its 2m0s grace; throttled")
		require.Less(t, away.tries, 60)
	})
}

// away is a node whose API server throttles deletions until then.
type away struct {
	*timed
	until time.Time
	tries int
}

func (a *away) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	a.tries++
	if time.Now().Before(a.until) {
		return &drain.Throttled{After: time.Minute}
	}
	return a.timed.Delete(ctx, ref, grace)
}

func TestCloseRemaining_PodStillStopping_ReasonSaysSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 2*time.Hour).Add(graced("slow", 2*time.Hour), 2*time.Hour)
		node.Allow("b", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute), Force: true}
		node.Outlast("app/web")
		node.Outlast("app/slow")
		report, state := by.Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Len(t, report.Remaining(), 2, "a later invocation would continue")
		report.CloseRemaining(state, "deadline reached")
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, "deadline reached while still stopping", report.Pods[0].Reason)
		require.Equal(t, drain.Forced, report.Pods[1].Outcome)
		require.True(t, strings.HasSuffix(report.Pods[1].Reason, "no disruption allowed; deadline reached while still stopping"), report.Pods[1].Reason)
		require.Empty(t, report.Remaining())
	})
}

// A webhook that hangs answers too late.
func TestForce_EvictionNotAnswered_PodKeepsItsGrace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := &slow{Cluster: draintest.New().Add(graced("web", 30*s), s), takes: time.Hour}
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute), Force: true}
		report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.GreaterOrEqual(t, by.Limits.Deadline.Sub(report.Pods[0].ForcedAt), 27*s, "3 s for the last eviction")
	})
}

func TestForce_ContextEndsEarly_NothingDeleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), s).Add(held(graced("batch", 30*s)), s)
		node.Allow("b", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(time.Hour), Force: true}
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		report, _ := by.Drain(within(t, 15*time.Minute), n, drain.Node{})
		require.Empty(t, n.deletions())
		require.Len(t, report.Remaining(), 2)
	})
}

// An invocation that starts after ForceAt does not know what an earlier one tried.
func TestForce_StartsLate_TriedOnceThenDeleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		by := drainer()
		by.Limits = drain.Limits{StartedAt: time.Now().Add(-10 * time.Minute), Deadline: time.Now().Add(20 * s), Force: true}
		n := &timed{Cluster: node, deadline: by.Limits.Deadline}
		report, _ := by.Drain(within(t, 20*s), n, drain.Node{})
		require.Equal(t, []string{"evict web", "delete web"}, n.order())
		require.Equal(t, 20*s, n.asked[0].grace, "no more than there is")
		require.Contains(t, report.Pods[0].Reason, "deleted with 20s of its 30s grace")
	})
}
