package termination

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// The pods of the second were never told to stop.
func TestDrain_TwoNodesClaimInstance_BothDrained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("real"), time.Second)
		env.claimants = map[string]*draintest.Cluster{
			"claimant": draintest.New().Add(web("other"), 2*time.Second), "empty": draintest.New(),
		}
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, "node-i-0abc1234", report.Node)
		require.Contains(t, report.Reason, "3 Node objects claim i-0abc1234")
		require.Subset(t, env.effects(), []string{"cordon claimant", "evict app/real", "evict app/other"})
		require.NotContains(t, env.effects(), "cordon empty", "it has no pods")
		nodes := map[string]string{}
		for _, p := range report.Pods {
			require.Equal(t, drain.Evicted, p.Outcome, p.Name)
			nodes[p.Name] = p.Node
		}
		require.Equal(t, map[string]string{"real": "", "other": "claimant"}, nodes)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// Found by the simulation, seed 877: the node that was empty first was not watched any more.
func TestDrain_TwoNodes_EmptyOneIsFilledAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("real"), time.Second)
		env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New().Add(web("slow"), time.Minute)}
		time.AfterFunc(30*time.Second, func() { env.node.Add(web("late"), time.Second) })
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Contains(t, env.effects(), "evict app/late")
		require.Len(t, report.Pods, 3)
	})
}

// Found by the simulation, seed 21472: the node without pods was opened while the other was drained, and stayed open.
func TestDrain_TwoNodes_EmptyOneOpenedIsCordonedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New().Add(web("slow"), time.Minute)}
		time.AfterFunc(30*time.Second, env.node.Uncordon)
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.False(t, env.node.Node().Uncordoned)
		require.Equal(t, 1, report.Recordons)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestDrain_TwoNodes_LateArrivalIsEvictedInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New().Add(web("stuck"), time.Hour)}
		time.AfterFunc(30*time.Second, func() { env.node.Add(web("late"), time.Second) })
		h := env.handler()
		h.Policy.Bounds.MaxDuration = 5 * time.Minute
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Contains(t, env.effects(), "evict app/late", "the other node is not empty before the deadline")
		require.Len(t, report.RemainedPods(), 1)
	})
}

// A surge removes the label that selects the pod's phase.
func TestPlan_PodHasRecord_StaysInItsPhase(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		phase string
	}{
		"recorded":   {nil, "poolers"},
		"unreadable": {errors.New("forbidden"), "workloads"},
	} {
		t.Run(name, func(t *testing.T) {
			env := newTestEnv()
			env.node.Add(web("web"), time.Second)
			require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-web", `{"phase":"poolers"}`))
			env.errors["records"] = []error{c.err}
			h := env.handler()
			h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: func(drain.Pod) bool { return false }}, {Name: "workloads"}}
			report, err := deliver(t, h, Record{Request: &Request{Action: ActionPlan, InstanceID: event.InstanceID}})
			require.NoError(t, err)
			require.Equal(t, StatusPlanned, report.Status)
			require.Equal(t, c.phase, report.Pods[0].Phase)
			require.Empty(t, env.effects(), "a plan changes nothing")
		})
	}
}

func TestPlan_TwoNodesClaimInstance_SaysSo(t *testing.T) {
	env := newTestEnv()
	env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New()}
	h := env.handler()
	parseAs(h, Record{Request: &Request{Action: ActionPlan, InstanceID: event.InstanceID}})
	report, err := invoke(t, h)
	require.NoError(t, err)
	require.Equal(t, StatusPlanned, report.Status)
	require.Contains(t, report.Reason, "2 Node objects claim i-0abc1234")
}

func TestDrain_ClaimantKeepsPod_StatusPartialAtDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("real"), time.Second)
		env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New().Add(web("stuck"), time.Hour)}
		h := env.handler()
		h.Policy.Bounds.MaxDuration = 5 * time.Minute
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, "claimant", report.RemainedPods()[0].Node)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestShortenedDeadline_TwoNodes_BothFollow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("stuck"), time.Hour)
		env.claimants = map[string]*draintest.Cluster{"claimant": draintest.New().Add(web("other"), time.Hour)}
		h := env.handler()
		deadline := time.Now().Add(3 * time.Minute)
		time.AfterFunc(time.Minute, func() { env.shortenDeadline(deadline) })
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, deadline, report.Deadline)
		require.False(t, time.Now().After(deadline))
		require.Len(t, report.RemainedPods(), 2)
	})
}

// The node of a group that is paired with the wrong cluster is never found. Its drains said "drained", without an alarm.
func TestNodeNotFound_InServiceBefore_IsToldFromNew(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testEnv)
		want   bool
	}{
		"old":                    {func(env *testEnv) { env.launched = time.Now().Add(-time.Hour) }, true},
		"of unknown age":         {func(*testEnv) {}, true},
		"new":                    {func(env *testEnv) { env.launched = time.Now().Add(-time.Minute) }, false},
		"warm":                   {func(env *testEnv) { env.state = "Warmed:Terminating:Wait" }, false},
		"terminated":             {func(env *testEnv) { env.terminated = true }, false},
		"closed by us before it": {func(env *testEnv) { env.closed = []ClosedNode{{Name: "node-1", UID: "uid-1"}} }, false},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.node = nil
			c.change(env)
			h, metrics := withMetrics(env)
			report, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, StatusNodeNotFound, report.Status, name)
			require.Equal(t, []Result{Continue}, env.completed, name)
			require.Equal(t, c.want, metrics.invocations[0].WasInService, name)
		})
	}
}

// replacedNode is a node whose object is another one now.
type replacedNode struct{ Kubernetes }

func (k replacedNode) WatchPods(ctx context.Context, n drain.Node, e drain.Effort) (drain.Cluster, error) {
	pods, err := k.Kubernetes.WatchPods(ctx, n, e)
	return replacedPods{pods}, err
}

type replacedPods struct{ drain.Cluster }

func (replacedPods) Node() drain.NodeState { return drain.NodeState{Replaced: true} }

func TestDrain_NodeReplaced_HandedOffUntilDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h := env.handler()
		h.Connect = func(context.Context) (Kubernetes, error) { return replacedNode{env}, nil }
		report, err := invoke(t, h)
		require.ErrorAs(t, err, new(*Incomplete))
		require.Contains(t, report.Reason, "the node was replaced")
		require.Empty(t, env.completed)
		require.Equal(t, []Keep{KeepAll}, env.kept)

		old := event
		first := time.Now()
		time.Sleep(h.Policy.Bounds.MaxDuration + 2*lateRetryTime)
		_, err = deliver(t, h, Record{Termination: &old, FirstReceived: first})
		require.NoError(t, err, "an instance is not kept by replacing its node again and again")
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// Pods that an earlier invocation evicted, or that left by themselves, have volumes too.
func TestVolumes_NothingEvictedNow_AreAwaitedAllTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		daemon := web("agent")
		daemon.Controller = "DaemonSet"
		env.node.Add(daemon, 0)
		env.detachTime = 20 * time.Second
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, 20*time.Second, time.Since(began))
		require.Len(t, env.stay, 1, "the volumes of a pod that stays are not waited for")
	})
}

// A StatefulSet makes its next pod only when the last one is gone. One that tolerates everything comes back while volumes are awaited: it
// was killed unsignaled, and not in the report.
func TestVolumes_PodComesMeanwhile_IsToldToStop(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("first"), time.Second)
		env.detachTime = 30 * time.Second
		go func() {
			time.Sleep(10 * time.Second)
			env.node.Add(web("late"), time.Second)
		}()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Len(t, report.Pods, 2)
		require.Equal(t, []string{"evict app/first", "gone app/first", "evict app/late", "gone app/late"}, env.node.Log())
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestVolumes_PodsComeOneAfterTheOther_EndsAllTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.detachTime = 30 * time.Second
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			for n := 0; drain.Sleep(ctx, 10*time.Second) == nil; n++ {
				env.node.Add(web("late-"+strconv.Itoa(n)), time.Second)
			}
		}()
		began := time.Now()
		_, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Less(t, time.Since(began), (maxRounds+2)*env.detachTime)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// primaryEscort holds the pods of its phase until a time, and then evicts them.
type primaryEscort struct {
	requestRecorder
	until time.Time
}

func (e *primaryEscort) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	if time.Now().Before(e.until) {
		return drain.EscortResult{Strategy: "switchover"}, &drain.Held{Reason: "no replica is near enough"}
	}
	return drain.EscortResult{Strategy: "switchover"}, r.Evict(ctx, drain.EvictOptions{})
}

// primaryPhases returns phases of which the first one has primaries, which delay the cordon.
func primaryPhases(escort *primaryEscort) []drain.Phase {
	isDatabase := func(p drain.Pod) bool { return p.Labels["phase"] == "databases" }
	return []drain.Phase{
		{Name: "databases", Match: isDatabase, Escort: escort, Keeps: true, DelaysCordon: isDatabase}, {Name: "workloads"},
	}
}

// Found by the simulation, seed 256: an old event came again when the drain had ended. Its invocation tainted the node, and forgot that the
// drain had cordoned it. So a sweep left the node cordoned when the instance returned from its warm pool.
func TestTaint_NodeCordonedEarlier_StaysKnown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		node := drain.Node{Name: "node-1", UID: "uid-1", InstanceID: event.InstanceID}
		env.closed = []ClosedNode{{Name: "node-1", UID: "uid-1", Hook: "quiesce", Began: time.Now().Add(-time.Hour), Unschedulable: true, Excluded: true}}
		h := env.handler()
		isDatabase := func(drain.Pod) bool { return true }
		h.Drainer.Phases = []drain.Phase{{Name: "databases", Match: isDatabase, Escort: &primaryEscort{}, Keeps: true, DelaysCordon: isDatabase}}
		j := h.newJob(event)
		require.False(t, j.acquireLease(t.Context(), env))
		j.Began = time.Now()
		require.NoError(t, j.newNodeDrain(env, node).close(t.Context()))
		require.Len(t, env.closed, 1)
		require.True(t, env.closed[0].Unschedulable)
		require.True(t, env.closed[0].Excluded)
		require.Equal(t, j.Began, env.closed[0].Began)
		j.releaseLease()
	})
}

// A policy denies the cordon that follows the taint. It is tried as often as a first cordon, and the report says it once.
func TestDrain_CordonAfterTheTaintDenied_TriedAndSaidOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		primary := web("pg-0")
		primary.Labels = map[string]string{"phase": "databases"}
		env.node.Add(primary, 5*time.Second).Add(web("web"), time.Minute)
		env.node.Uncordon()
		env.failAlways("cordon", &drain.Refused{Reason: "a policy says no"})
		h := env.handler()
		h.Drainer.Phases = primaryPhases(&primaryEscort{})
		time.AfterFunc(20*time.Second, func() { env.shorten(time.Now().Add(2 * time.Minute)) }) // the eviction begins again
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status, report.Reason)
		require.Equal(t, 1, count(env.effects(), "cordon "+report.Node), env.effects())
		require.Equal(t, 1, strings.Count(report.Reason, "a policy says no"), report.Reason)
	})
}

// An operator answers a cordon by moving its primary. So the node is tainted first, and cordoned when the primary has been told to stop.
func TestDrain_PrimaryOnNode_TaintedThenMovedThenCordoned(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		primary := web("pg-0")
		primary.Labels = map[string]string{"phase": "databases"}
		env.node.Add(primary, 5*time.Second).Add(web("web"), time.Second)
		env.node.Uncordon()
		h := env.handler()
		h.Drainer.Phases = primaryPhases(&primaryEscort{until: time.Now().Add(20 * time.Second)})
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status, report.Reason)
		require.Zero(t, report.Recordons)
		effects := env.effects()
		taint, cordon := slices.Index(effects, "taint node-"+event.InstanceID), slices.Index(effects, "cordon "+report.Node)
		require.NotEqual(t, -1, taint, effects)
		require.Greater(t, cordon, taint, effects)
		require.Equal(t, []string{"uncordon", "evict app/web", "gone app/web", "evict app/pg-0", "recordon", "gone app/pg-0"}, env.node.Log())
		require.Len(t, env.closed, 1, "a sweep can open the node")
		require.True(t, env.closed[0].Unschedulable)
	})
}

func TestDrain_ManyNodesClaimInstance_TenMoreAreDrained(t *testing.T) {
	for claimants, note := range map[int]string{maxClaimants: "", maxClaimants + 1: "1 more nodes claim the instance, and are not drained"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.claimants = map[string]*draintest.Cluster{}
			for n := range claimants {
				env.claimants["claimant-"+strconv.Itoa(n)] = draintest.New()
			}
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Len(t, env.efforts, 1+maxClaimants, "each node that is drained is watched")
			require.Equal(t, note != "", strings.Contains(report.Reason, "more nodes"), report.Reason)
			require.Contains(t, report.Reason, note)
		})
	}
}

// filledAtTheEnd is a node that gets a pod just after its first drain found it empty.
type filledAtTheEnd struct {
	*draintest.Cluster
	filled bool
}

func (f *filledAtTheEnd) FinishedPods() int {
	if !f.filled {
		f.filled = true
		f.Add(web("late"), time.Second)
	}
	return f.Cluster.FinishedPods()
}

// No drain is under way any more that could notice the pod.
func TestEvict_TwoNodes_LastOneFilledAtTheEndIsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		j := env.handler().newJob(event)
		j.clock.setWithoutHook(time.Now())
		last := &filledAtTheEnd{Cluster: draintest.New().Add(web("slow"), time.Minute)}
		for name, pods := range map[string]drain.Cluster{"node-1": env.node, "node-2": last} {
			d := j.newNodeDrain(env, drain.Node{Name: name, UID: "uid-" + name})
			d.pods = pods
			j.drains = append(j.drains, d)
		}
		require.NoError(t, j.evict(t.Context()))
		require.Equal(t, []string{"evict app/slow", "gone app/slow", "evict app/late", "gone app/late"}, last.Log())
	})
}

// A drain that ended last closes the channel that the others wait on, and that can be done once.
func TestTogether_AllEnded_NoneBegins(t *testing.T) {
	all := &together{busy: 2, over: make(chan struct{})}
	all.end()
	require.True(t, all.begin())
	all.end()
	all.end()
	require.False(t, all.begin())
	require.Zero(t, all.busy)
}
