package drain_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// limits are those of a drain of twenty minutes that starts now.
var limits = drain.Limits{StartedAt: now, Deadline: now.Add(20 * time.Minute), Force: true}

func gracious(name string, grace time.Duration, pdbs ...string) drain.Pod {
	return drain.Pod{Ref: drain.Ref{Namespace: "app", Name: name}, Grace: grace, PDBs: pdbs}
}

func held(p drain.Pod) drain.Pod {
	p.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
	return p
}

func terminating(p drain.Pod) drain.Pod {
	p.Deleted = ago(time.Second)
	return p
}

func TestForceAt_GraceAndPDBs_DecideTheTime(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		pods []drain.Pod
		lead time.Duration
		want map[string]time.Duration // before the deadline; the other pods have none
	}{
		"a pod's grace before the deadline": {
			pods: []drain.Pod{gracious("a", 30*s), gracious("b", 90*s)}, want: map[string]time.Duration{"a": 30 * s, "b": 90 * s},
		},
		"never in the first half": {
			pods: []drain.Pod{gracious("a", time.Hour), gracious("b", 10*time.Minute+s)},
			want: map[string]time.Duration{"a": 10 * time.Minute, "b": 10 * time.Minute},
		},
		"a grace that overflows is as long as any": {
			pods: []drain.Pod{gracious("a", 1<<62, "x"), gracious("b", 1<<62, "x")},
			want: map[string]time.Duration{"a": 10 * time.Minute, "b": 10 * time.Minute},
		},
		"without grace there is time for two answers": {
			pods: []drain.Pod{gracious("a", 0), gracious("b", s)}, want: map[string]time.Duration{"a": 2 * s, "b": 2 * s},
		},
		"the first pod of a PDB early enough for all, the others at their last moment": {
			pods: []drain.Pod{gracious("a", 30*s, "x"), gracious("b", 60*s, "x"), gracious("c", 5*s, "x")},
			want: map[string]time.Duration{"a": 30 * s, "b": 95 * s, "c": 5 * s},
		},
		"the pod that needs more is the first": {
			pods: []drain.Pod{gracious("a", 30*s, "x"), gracious("c", 5*s, "x")}, want: map[string]time.Duration{"a": 35 * s, "c": 5 * s},
		},
		"no pod is early while another of its PDB terminates": {
			pods: []drain.Pod{terminating(gracious("a", 30*s, "x")), gracious("b", 60*s, "x"), gracious("c", 5*s, "x")},
			want: map[string]time.Duration{"b": 60 * s, "c": 5 * s},
		},
		"PDBs do not wait for each other": {
			pods: []drain.Pod{gracious("a", 30*s, "x"), gracious("b", 30*s, "y"), gracious("c", 30*s, "x"), gracious("d", 30*s)},
			want: map[string]time.Duration{"a": 60 * s, "b": 30 * s, "c": 30 * s, "d": 30 * s},
		},
		"a pod of two PDBs waits for both": {
			pods: []drain.Pod{gracious("a", 30*s, "x"), gracious("b", 40*s, "x", "y"), gracious("c", 50*s, "y")},
			want: map[string]time.Duration{"a": 30 * s, "b": 40 * s, "c": 90 * s},
		},
		"a sum that does not fit starts in the middle": {
			pods: []drain.Pod{gracious("a", 400*s, "x"), gracious("b", 400*s, "x")}, want: map[string]time.Duration{"a": 600 * s, "b": 400 * s},
		},
		"held pods take part": {
			pods: []drain.Pod{held(gracious("a", 30*s, "x")), gracious("b", 20*s, "x")}, want: map[string]time.Duration{"a": 50 * s, "b": 20 * s},
		},
		"the escort's time comes before the grace": {
			pods: []drain.Pod{gracious("a", 30*s, "x"), gracious("b", 30*s, "x")}, lead: 60 * s,
			want: map[string]time.Duration{"a": 180 * s, "b": 90 * s},
		},
		"skipped and terminating pods have none": {
			pods: []drain.Pod{{Ref: drain.Ref{Name: "daemon"}, Controller: "DaemonSet", PDBs: []string{"x"}}, terminating(gracious("a", 30*s))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := drain.Make(drain.View{
				Now: now, Pods: c.pods, Phases: []drain.Phase{{Name: "workloads", Lead: c.lead}}, Clocks: make([]drain.Clock, 1), Limits: limits,
			})
			got := map[string]time.Duration{}
			for _, p := range plan.Pods {
				require.False(t, p.Due)
				if !p.ForceAt.IsZero() {
					got[p.Name] = limits.Deadline.Sub(p.ForceAt)
				}
			}
			if c.want == nil {
				c.want = map[string]time.Duration{}
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestGrace_TimeLeft_WholeSecondsAndNeverZero(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		time.Hour:                30 * time.Second,
		30 * time.Second:         30 * time.Second,
		29001 * time.Millisecond: 30 * time.Second,
		29 * time.Second:         29 * time.Second,
		300 * time.Millisecond:   time.Second,
		0:                        time.Second,
		-time.Minute:             time.Second,
	} {
		require.Equal(t, want, limits.Grace(30*time.Second, limits.Deadline.Add(-left)), left)
	}
	require.Equal(t, time.Second, limits.Grace(0, now), "the kubelet must stop it, not find it gone")
}

// planned returns the plan this long before the deadline, of a node with these pods and a pooler.
func planned(before time.Duration, l drain.Limits, pods ...drain.Pod) drain.Plan {
	stuck := in("poolers")
	stuck.PDBs = []string{"stuck"}
	phases := []drain.Phase{{Name: "poolers", Match: labeled("poolers")}, {Name: "workloads"}}
	return drain.Make(drain.View{
		Now: l.Deadline.Add(-before), Pods: append(pods, stuck), Phases: phases, Clocks: make([]drain.Clock, 2), Limits: l,
	})
}

func TestPlan_TimeIsShort_PodOpensBeforeItsPhase(t *testing.T) {
	lenient := limits
	lenient.Force = false
	for name, l := range map[string]drain.Limits{"force": limits, "keep": lenient} {
		t.Run(name, func(t *testing.T) {
			pods := []drain.Pod{gracious("short", 30*time.Second), gracious("long", 90*time.Second)}
			plan := planned(181*time.Second, l, pods...)
			require.Equal(t, []string{"poolers"}, open(plan))
			require.Equal(t, l.Deadline.Add(-180*time.Second), plan.Wake)
			require.Zero(t, plan.Clocks[1].Began)
			plan = planned(180*time.Second, l, pods...)
			require.Equal(t, []string{"poolers", "long"}, open(plan))
			require.NotZero(t, plan.Clocks[1].Began)
			require.Equal(t, []string{"poolers", "long", "short"}, open(planned(60*time.Second, l, pods...)))
		})
	}
}

func TestPlan_WithoutForce_NoPodIsDue(t *testing.T) {
	lenient := limits
	lenient.Force = false
	for _, p := range planned(time.Second, lenient, gracious("web", 30*time.Second), held(gracious("batch", 30*time.Second))).Pods {
		require.Zero(t, p.ForceAt)
		require.False(t, p.Due)
		require.Equal(t, p.Verdict == drain.Evict, p.Open, "a held pod stays")
	}
}

func TestPlan_NextPodDue_Wakes(t *testing.T) {
	batch := held(gracious("batch", 30*time.Second))
	plan := planned(45*time.Second, limits, batch)
	require.Equal(t, limits.Deadline.Add(-30*time.Second), plan.Wake)
	plan = planned(30*time.Second, limits, batch)
	require.True(t, plan.Pods[1].Due)
	require.True(t, plan.Pods[1].Open)
	require.Equal(t, limits.Deadline.Add(-4*time.Second), plan.Wake, "the pooler's, which has no grace")
}

func TestPlan_OnlyFinalizersKeepPod_AwaitedForAWhile(t *testing.T) {
	kept := terminating(gracious("kept", 30*time.Second))
	kept.ContainersEndedAt, kept.Finalizers = ago(9*time.Second), []string{"example.com/a", "example.com/b"}
	view := drain.View{Now: now, Pods: []drain.Pod{kept}, Phases: order(), Clocks: make([]drain.Clock, 3)}
	plan := drain.Make(view)
	require.Equal(t, drain.Wait, plan.Pods[0].Verdict)
	require.Equal(t, now.Add(time.Second), plan.Wake)
	view.Now = now.Add(time.Second)
	plan = drain.Make(view)
	require.Equal(t, drain.Skip, plan.Pods[0].Verdict)
	require.Equal(t, "its containers have ended; kept by example.com/a, example.com/b", plan.Pods[0].Reason)
	require.True(t, plan.Done())
}

// On any node: ForceAt is never in the first half, and leaves a pod its own grace where there is that much time. Of the pods of one PDB,
// no more than one is deleted before its own last moment.
func TestForceAt_RandomNodes_PromisesHold(t *testing.T) {
	for seed := range uint64(plans) {
		view := randomNode(seed)
		r := rand.New(rand.NewPCG(seed, 1))
		before, left := time.Duration(r.IntN(900))*time.Second, time.Duration(1+r.IntN(900))*time.Second
		view.Limits = drain.Limits{StartedAt: ago(before), Deadline: now.Add(left), Force: true}
		for i := range view.Pods {
			view.Pods[i].Grace = time.Duration(r.IntN(300)) * time.Second
			for _, pdb := range []string{"x", "y", "z"} {
				if r.IntN(3) == 0 {
					view.Pods[i].PDBs = append(view.Pods[i].PDBs, pdb)
				}
			}
		}
		requireForceAt(t, seed, drain.Make(view), view.Limits)
	}
}

func requireForceAt(t *testing.T, seed uint64, plan drain.Plan, l drain.Limits) {
	half, early, busy := l.StartedAt.Add(l.Deadline.Sub(l.StartedAt)/2), map[string]int{}, map[string]bool{}
	for _, p := range plan.Pods {
		for _, pdb := range p.PDBs {
			busy[pdb] = busy[pdb] || p.Verdict == drain.Wait
		}
	}
	for _, p := range plan.Pods {
		if p.Verdict != drain.Evict && p.Verdict != drain.Hold {
			require.Zero(t, p.ForceAt, "seed %d: %s", seed, p.Name)
			continue
		}
		require.False(t, p.ForceAt.Before(half), "seed %d: %s in the first half", seed, p.Name)
		own := l.Deadline.Add(-max(p.Grace, 2*time.Second))
		if own.Before(half) {
			own = half
		}
		require.False(t, p.ForceAt.After(own), "seed %d: %s too late", seed, p.Name)
		for _, pdb := range p.PDBs {
			if p.ForceAt.Before(own) {
				early[pdb]++
				require.False(t, busy[pdb], "seed %d: %s before another is gone", seed, p.Name)
			}
		}
		if len(p.PDBs) == 0 {
			require.Equal(t, own, p.ForceAt, "seed %d: %s", seed, p.Name)
		}
	}
	for pdb, n := range early {
		require.Equal(t, 1, n, "seed %d: PDB %s", seed, pdb)
	}
}
