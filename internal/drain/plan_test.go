package drain_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// order returns three phases like the default ones.
func order() []drain.Phase {
	return []drain.Phase{
		{Name: "poolers", Match: labeled("poolers"), Settle: 5 * time.Second, Timeout: 5 * time.Minute},
		{Name: "workloads", Timeout: 5 * time.Minute},
		{Name: "critical", Match: labeled("critical"), Timeout: 5 * time.Minute},
	}
}

func in(phase string) drain.Pod {
	return drain.Pod{Ref: drain.Ref{Namespace: "app", Name: phase}, Labels: map[string]string{"phase": phase}}
}

func open(p drain.Plan) []string {
	var names []string
	for _, pod := range p.Pods {
		if pod.Open && pod.Verdict == drain.Evict {
			names = append(names, pod.Name)
		}
	}
	return names
}

func TestPlan_PodsAndClocks_DecideWhatIsOpen(t *testing.T) {
	terminating, held := in("poolers"), in("poolers")
	terminating.Deleted = ago(time.Second)
	held.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
	for name, c := range map[string]struct {
		pods   []drain.Pod
		clocks [3]drain.Clock
		open   []string
		wake   time.Time
		done   bool
	}{
		"an empty node is done": {done: true},
		"the first phase with pods is open": {
			pods: []drain.Pod{in("critical"), in("poolers"), in("web")}, open: []string{"poolers"}, wake: now.Add(5 * time.Minute),
		},
		"a phase without pods does not count": {
			pods: []drain.Pod{in("critical")}, open: []string{"critical"}, wake: now.Add(5 * time.Minute),
		},
		"a phase whose pods are terminating is waited for": {
			pods: []drain.Pod{terminating, in("web")}, wake: now.Add(5 * time.Minute),
		},
		"a held pod does not hold back the next phase": {
			pods: []drain.Pod{held, in("web")}, open: []string{"web"}, wake: now.Add(5 * time.Minute),
		},
		"a phase that had pods settles": {
			pods:   []drain.Pod{in("web")},
			clocks: [3]drain.Clock{{Began: ago(10 * time.Second), Emptied: ago(2 * time.Second)}}, wake: now.Add(3 * time.Second),
		},
		"and then the next starts": {
			pods:   []drain.Pod{in("web")},
			clocks: [3]drain.Clock{{Began: ago(10 * time.Second), Emptied: ago(5 * time.Second)}},
			open:   []string{"web"}, wake: now.Add(5 * time.Minute),
		},
		"a phase past its timeout holds nothing back, and its pods are still evicted": {
			pods:   []drain.Pod{in("poolers"), in("web")},
			clocks: [3]drain.Clock{{Began: ago(5 * time.Minute)}},
			open:   []string{"poolers", "web"}, wake: now.Add(5 * time.Minute),
		},
		"a pod that comes late to a complete phase still comes first": {
			pods:   []drain.Pod{in("poolers"), in("web")},
			clocks: [3]drain.Clock{{Began: ago(time.Minute), Emptied: ago(30 * time.Second)}, {Began: ago(25 * time.Second)}},
			open:   []string{"poolers"}, wake: now.Add(4 * time.Minute),
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := drain.Make(drain.View{Now: now, Pods: c.pods, Phases: order(), Clocks: c.clocks[:]})
			require.Equal(t, c.open, open(plan))
			require.Equal(t, c.wake, plan.Wake)
			require.Equal(t, c.done, plan.Done())
		})
	}
}

func TestPlan_UnmatchedPods_InThePhaseWithoutAMatch(t *testing.T) {
	plan := drain.Make(drain.View{Now: now, Pods: []drain.Pod{in("other"), in("critical")}, Phases: order(), Clocks: make([]drain.Clock, 3)})
	require.Equal(t, 1, plan.Pods[0].Phase)
	require.Equal(t, 2, plan.Pods[1].Phase)
}

// plans is how many random nodes each property is tested on.
const plans = 2000

// randomNode returns a random mixture of pods, phases and clocks.
func randomNode(seed uint64) drain.View {
	r := rand.New(rand.NewPCG(seed, 0))
	view := drain.View{Now: now, Node: drain.Node{Cordoned: ago(time.Minute), Unreachable: r.IntN(5) == 0}, Phases: order()}
	for i := range r.IntN(12) {
		p := in([]string{"poolers", "web", "critical"}[r.IntN(3)])
		p.Name = fmt.Sprintf("%s-%d", p.Name, i)
		p.Mirror, p.Finished = r.IntN(8) == 0, r.IntN(8) == 0
		p.Created = ago(time.Duration(r.IntN(120)) * time.Second)
		if r.IntN(4) == 0 {
			p.Deleted = ago(time.Duration(r.IntN(60)) * time.Second)
		}
		if r.IntN(6) == 0 {
			p.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
		}
		p.Controller = []string{"", "ReplicaSet", "DaemonSet"}[r.IntN(3)]
		view.Pods = append(view.Pods, p)
	}
	for range view.Phases {
		clock := drain.Clock{}
		if r.IntN(2) == 0 {
			clock.Began = ago(time.Duration(r.IntN(600)) * time.Second)
		}
		view.Clocks = append(view.Clocks, clock)
	}
	return view
}

func TestPlan_PodsInAnyOrder_SamePlan(t *testing.T) {
	for seed := range uint64(plans) {
		view := randomNode(seed)
		want := drain.Make(view)
		slices.Reverse(view.Pods)
		require.Equal(t, want, drain.Make(view), "seed %d", seed)
		require.Len(t, want.Pods, len(view.Pods), "every pod has one verdict, seed %d", seed)
	}
}

func TestPlan_EarlierPhaseHasTime_NoLaterPodIsOpen(t *testing.T) {
	for seed := range uint64(plans) {
		view := randomNode(seed)
		plan := drain.Make(view)
		for _, early := range plan.Pods {
			clock := plan.Clocks[early.Phase]
			timedOut := !clock.Began.IsZero() && view.Now.Sub(clock.Began) >= view.Phases[early.Phase].Timeout
			if (early.Verdict != drain.Evict && early.Verdict != drain.Wait) || timedOut {
				continue
			}
			for _, late := range plan.Pods {
				require.False(t, late.Open && late.Phase > early.Phase, "seed %d: %s before %s", seed, late.Name, early.Name)
			}
		}
	}
}

// A plan that is followed again and again gets every wanted pod off the node, and no other.
func TestPlan_FollowedToTheEnd_OnlyWantedPodsGo(t *testing.T) {
	for seed := range uint64(plans) {
		view := randomNode(seed)
		stay := 0
		for _, p := range drain.Make(view).Pods {
			if p.Verdict == drain.Skip || p.Verdict == drain.Hold {
				stay++
			}
		}
		for step := 0; follow(&view); step++ {
			require.Less(t, step, 100, "seed %d does not end", seed)
		}
		require.Len(t, view.Pods, stay, "seed %d", seed)
	}
}

// follow does what the plan says: what is evicted or terminating is gone in the next view. It reports whether there was anything to do.
func follow(view *drain.View) bool {
	plan := drain.Make(*view)
	view.Clocks, view.Now = plan.Clocks, view.Now.Add(time.Minute)
	var stay []drain.Pod
	acted := false
	for _, p := range plan.Pods {
		gone := p.Verdict == drain.Wait || (p.Open && p.Verdict == drain.Evict)
		acted = acted || p.Verdict == drain.Evict || p.Verdict == drain.Wait
		if !gone {
			stay = append(stay, p.Pod)
		}
	}
	view.Pods = stay
	return acted
}
