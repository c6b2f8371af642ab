package drain_test

import (
	"cmp"
	"context"
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

// holder is an escort that holds its pods until a time, and then evicts them.
type holder struct {
	escort
	until time.Time
	never bool // it holds them whatever happens
	after time.Duration
}

func (h *holder) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	if h.never || time.Now().Before(h.until) {
		h.note(func() { h.seen, h.began = append(h.seen, p), append(h.began, time.Now()) })
		return drain.EscortResult{Strategy: "switchover"}, &drain.Held{Reason: "its replica is 32 MiB behind", After: h.after}
	}
	return h.escort.Run(ctx, p)
}

// holding returns a drainer whose first phase is that of databases. The node is not cordoned while it has a primary.
func holding(h *holder) drain.Drainer {
	h.options = []drain.EvictOptions{{}}
	d := drainer(
		drain.Phase{
			Name: "databases", Match: labeled("databases"), Escort: h, Lead: 10 * time.Second, Keeps: true,
			DelaysCordon: func(p drain.Pod) bool { return p.Labels["role"] == "primary" },
		},
		drain.Phase{Name: "workloads"},
	)
	d.Records = &draintest.Records{}
	return d
}

func TestHeld_Pod_OthersLeave_AndItFollows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		h := &holder{until: began.Add(50 * time.Second)}
		node := draintest.New().Add(pod("pg-0", "phase", "databases"), time.Second).Add(pod("web"), 10*time.Second)
		report, _ := holding(h).Drain(within(t, 5*time.Minute), node, drain.Node{})
		require.Equal(t, []string{"evict app/web", "gone app/web", "evict app/pg-0", "gone app/pg-0"}, node.Log())
		pg := report.Pods[0]
		require.Equal(t, drain.Evicted, pg.Outcome)
		require.NotContains(t, pg.Reason, "held", "it is not held any more")
		require.Equal(t, began.Add(70*time.Second), pg.EvictedAt, "asked when web was gone, and then every 30 seconds")
		require.Less(t, len(h.seen), 6, "not at every change")
	})
}

// A held pod is not like others that remain: the drain neither deletes it nor shortens its grace, and says why it stays.
func TestHeld_UntilTheDeadline_NeverDeleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &holder{never: true}
		node := draintest.New().Add(pod("pg-0", "phase", "databases"), time.Second).Add(pod("web"), time.Second)
		d, began := holding(h), time.Now()
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(2 * time.Minute), Force: true}
		report, _ := d.Drain(within(t, 2*time.Minute), node, drain.Node{})
		require.Equal(t, []string{"evict app/web", "gone app/web"}, node.Log())
		require.Equal(t, drain.StillHeld, report.Pods[0].Outcome)
		require.Equal(t, "held: its replica is 32 MiB behind", report.Pods[0].Reason)
		require.Len(t, report.Remaining(), 1)
		last := h.seen[len(h.seen)-1]
		require.False(t, last.EvictBy.IsZero(), "the escort knows when its time is over")
		require.True(t, h.began[len(h.began)-1].After(last.EvictBy), "and may act until the deadline")
	})
}

func TestHeld_TerminatingPod_GraceIsLeftAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := pod("pg-0", "phase", "databases")
		p.Grace = time.Hour
		h := &holder{}
		node := draintest.New().Add(p, 10*time.Minute)
		d, began := holding(h), time.Now()
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(5 * time.Minute), Force: true}
		d.Drain(within(t, 5*time.Minute), node, drain.Node{})
		require.Len(t, node.Log(), 1, "no deletion shortens it: %v", node.Log())
	})
}

// An operator answers a cordon by moving the primary itself. So the node is closed by a taint until no primary is on it.
func TestCordon_PrimaryOnNode_WaitsUntilItLeaves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		h := &holder{until: began.Add(25 * time.Second)}
		node := draintest.New().
			Add(pod("pg-0", "phase", "databases", "role", "primary"), 5*time.Second).Add(pod("pg-1", "phase", "databases"), time.Second)
		node.Uncordon()
		d := holding(h)
		var mutex sync.Mutex
		var cordoned []time.Time
		d.Recordon = func(ctx context.Context) (time.Time, error) {
			mutex.Lock()
			defer mutex.Unlock()
			cordoned = append(cordoned, time.Now())
			return node.Recordon(ctx)
		}
		report, _ := d.Drain(within(t, 5*time.Minute), node, drain.Node{Cordoned: began, TaintedOnly: true})
		require.Len(t, cordoned, 1)
		require.False(t, cordoned[0].Before(report.Pods[0].EvictedAt), "the primary had been told to stop")
		require.Zero(t, report.Recordons, "nobody had opened it")
	})
}

// The escort wants the primary to go, and its PDB refuses. Only the operator can move it then, and the cordon is what it answers.
func TestCordon_PrimaryWhoseEvictionIsRefused_IsNotWaitedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		h := &holder{until: began.Add(25 * time.Second)}
		node := draintest.New().Add(pod("pg-0", "phase", "databases", "role", "primary", "budget", "b"), time.Second)
		node.Allow("b", 0)
		node.Uncordon()
		d := holding(h)
		var cordoned time.Time
		d.Recordon = func(ctx context.Context) (time.Time, error) {
			cordoned = time.Now()
			time.AfterFunc(10*time.Second, func() { node.Allow("b", 1) }) // the operator has moved the primary
			return node.Recordon(ctx)
		}
		report, _ := d.Drain(within(t, 5*time.Minute), node, drain.Node{Cordoned: began, TaintedOnly: true})
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.False(t, cordoned.Before(h.until), "not while its escort holds it")
		require.Less(t, cordoned.Sub(began), time.Minute)
	})
}

// Where its escort must not run, a primary is not an ordinary pod all the same: it stays as long as its grace allows. What it is, its labels
// say: whatever else reads the pod may be what ends the function.
func TestKept_NoEscortRuns_EvictedInTheLastMomentsWithItsGrace(t *testing.T) {
	for name, change := range map[string]func(*drain.Drainer){
		"two unclean ends":   func(d *drain.Drainer) { d.Effort = drain.EffortNoEscorts },
		"three unclean ends": func(d *drain.Drainer) { d.Effort = drain.EffortMetadata },
		"no Lease":           func(d *drain.Drainer) { d.Records = nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				p, began := pod("pg-0", "phase", "databases", "role", "primary"), time.Now()
				p.Grace = time.Minute
				node := draintest.New().Add(p, 50*time.Second).Add(pod("web"), time.Second)
				node.Uncordon()
				h := &holder{never: true}
				d := holding(h)
				d.Phases[0].MatchLabels = d.Phases[0].Match
				d.Phases[0].Match = func(drain.Pod) bool { panic("an annotation that ends the function") }
				d.Recordon = node.Recordon
				d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
				change(&d)
				report, _ := d.Drain(within(t, 10*time.Minute), node, drain.Node{})
				log := node.Log()
				require.Equal(t, []string{"evict app/web", "gone app/web", "evict app/pg-0", "gone app/pg-0"},
					slices.DeleteFunc(slices.Clone(log), func(line string) bool { return strings.HasSuffix(line, "cordon") }))
				require.Less(t, slices.Index(log, "recordon"), slices.Index(log, "gone app/web"), "its operator may answer the cordon")
				require.Contains(t, log, "recordon")
				require.Empty(t, h.seen)
				pg := report.Pods[0]
				require.Equal(t, drain.Evicted, pg.Outcome)
				require.WithinDuration(t, began.Add(9*time.Minute), pg.EvictedAt, 5*time.Second)
				require.True(t, pg.EvictedAt.Before(began.Add(9*time.Minute)), "it has its whole grace")
				require.Contains(t, pg.Escort.Reason, "its escort does not run in this drain")
			})
		})
	}
}

// Data that exist on one node only are not lost because the function ended twice. The record says what no escort may say then.
func TestKept_OnlyCopyRecordedAndNoEscortRuns_StaysToTheEnd(t *testing.T) {
	for name, effort := range map[string]drain.Effort{
		"two unclean ends": drain.EffortNoEscorts, "three unclean ends": drain.EffortMetadata,
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				pg := pod("pg-0", "phase", "databases")
				node, began := draintest.New().Add(pg, time.Second).Add(pod("web"), time.Second), time.Now()
				d := holding(&holder{})
				recordOnlyCopy(t, d, pg)
				d.Effort = effort
				d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
				report, _ := d.Drain(within(t, 10*time.Minute), node, drain.Node{})
				require.Equal(t, []string{"evict app/web", "gone app/web"}, node.Log())
				require.Len(t, report.OnlyCopies(), 1)
				require.Contains(t, report.Pods[0].Reason, "has recorded that the pod's data may exist on this node only")
			})
		})
	}
}

// recordOnlyCopy lets an escort of an earlier invocation record that the pod has the only copy of its data.
func recordOnlyCopy(t *testing.T, d drain.Drainer, pg drain.Pod) {
	t.Helper()
	began := time.Now()
	d.Phases = slices.Clone(d.Phases)
	d.Phases[0].Escort = &saving{onlyCopy: true}
	d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(time.Minute), Force: true}
	report, _ := d.Drain(within(t, time.Second), draintest.New().Add(pg, time.Second), drain.Node{})
	require.Len(t, report.OnlyCopies(), 1)
}

// saving is an escort that records something, and holds its pod.
type saving struct {
	escort
	onlyCopy bool
}

func (e *saving) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	err := p.Save(ctx, []byte(`{}`), e.onlyCopy)
	return drain.EscortResult{}, cmp.Or(err, error(&drain.Held{Reason: "no replica", OnlyCopy: e.onlyCopy}))
}

func TestKept_BeforeTheLastMoments_ReportSaysWhy(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node, began := draintest.New().Add(pod("pg-0", "phase", "databases"), time.Second), time.Now()
		d := holding(&holder{})
		d.Effort = drain.EffortNoEscorts
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(30 * time.Minute), Force: true}
		report, _ := d.Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Empty(t, node.Log())
		require.Equal(t, drain.StillHeld, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "its escort does not run in this drain, so it stays until the last moments")
	})
}

// A grace that is longer than the drain leaves half of the time to it. A PDB that refuses is overruled then, as for other pods, but not at
// the expense of the grace.
func TestKept_LongGraceAndPDB_ToldInTheMiddleWithItsGrace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p, began := pod("pg-0", "phase", "databases", "budget", "pg"), time.Now()
		p.Grace = time.Hour
		node := draintest.New().Add(p, time.Second)
		node.Allow("pg", 0)
		d := holding(&holder{})
		d.Effort = drain.EffortNoEscorts
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
		report, _ := d.Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Equal(t, []string{"block app/pg-0", "delete app/pg-0 1h0m0s", "gone app/pg-0"}, node.Log())
		require.WithinDuration(t, began.Add(5*time.Minute), report.Pods[0].ForcedAt, 5*time.Second)
	})
}

// With onDeadline: keep, pods are not deleted. The escort must know all the same when its last acts are due.
func TestHeld_NotForced_EscortKnowsItsEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &holder{never: true}
		node := draintest.New().Add(pod("pg-0", "phase", "databases"), time.Second)
		d, began := holding(h), time.Now()
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(5 * time.Minute)}
		d.Drain(within(t, 5*time.Minute), node, drain.Node{})
		last := h.seen[len(h.seen)-1]
		require.False(t, last.EvictBy.IsZero())
		require.True(t, last.EvictBy.Before(d.Limits.Deadline))
		require.Contains(t, h.began, last.EvictBy, "it runs at that moment")
	})
}

// An escort that has cost clients something says how long it is to be left alone. Its last acts come in time all the same.
func TestHeld_After_NotRunBefore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &holder{never: true, after: 2 * time.Minute}
		node := draintest.New().Add(pod("pg-0", "phase", "databases"), time.Second)
		ctx := within(t, 5*time.Minute)
		d, began := holding(h), time.Now()
		d.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(5 * time.Minute), Force: true}
		var busy sync.WaitGroup
		busy.Go(func() {
			for ctx.Err() == nil {
				node.Allow("b", 0)
				time.Sleep(time.Second)
			}
		})
		d.Drain(ctx, node, drain.Node{})
		busy.Wait()
		evictBy, last := h.seen[0].EvictBy, time.Time{}
		for _, at := range h.began {
			if !last.IsZero() && at.Before(evictBy.Add(-10*time.Second)) {
				require.GreaterOrEqual(t, at.Sub(last), 2*time.Minute)
			}
			last = at
		}
		require.Contains(t, h.began, evictBy.Add(-10*time.Second), "when its last acts begin")
	})
}
