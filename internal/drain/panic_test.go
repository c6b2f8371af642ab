package drain_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// panicking is an escort that panics in every step, after it recorded a change.
type panicking struct {
	undone    int
	saves     bool
	onlyCopy  bool
	undoWorks bool
}

func (e *panicking) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	if e.saves {
		_ = r.Save(ctx, []byte(`{"paused":true}`), e.onlyCopy)
	}
	var list []string
	return drain.EscortResult{Strategy: list[len(list)+7]}, nil
}

func (e *panicking) ShutDown(context.Context, drain.EscortRequest) (drain.EscortResult, error) {
	panic(strings.Repeat("words of a tenant ", 10_000))
}

func (e *panicking) Undo(ctx context.Context, r drain.EscortRequest) error {
	if e.undone++; e.undoWorks {
		return r.Save(ctx, nil, false)
	}
	panic("undo")
}

func (e *panicking) Advise(context.Context, drain.Pod) []string { panic("advise") }

func panics(e *panicking, log *bytes.Buffer) drain.Drainer {
	by := drainer(drain.Phase{Name: "poolers", Match: labeled("poolers"), Escort: e, Lead: 30 * s}, drain.Phase{Name: "workloads"})
	by.Records = &draintest.Records{}
	by.Log = slog.New(slog.NewTextHandler(log, nil))
	return by
}

func TestEscort_Panics_PodEvictedWithoutIt(t *testing.T) {
	for name, c := range map[string]panicking{
		"before it changed anything": {}, "after it did": {saves: true}, "after it did, and undoing works": {saves: true, undoWorks: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				e := &panicking{saves: c.saves, undoWorks: c.undoWorks}
				node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), s)
				node.Allow("b", 0)
				time.AfterFunc(time.Minute, func() { node.Allow("b", 1) })
				began := time.Now()
				report, _ := drainBy(t, panics(e, &log), 10*time.Minute, node)
				pooler := report.Pods[0]
				require.Equal(t, drain.Evicted, pooler.Outcome)
				require.Equal(t, began.Add(time.Minute), pooler.EvictedAt)
				require.Equal(t, "plain", pooler.Escort.Strategy)
				require.Contains(t, pooler.Escort.Reason, "the escort panicked in Run: runtime error: index out of range")
				require.NotContains(t, pooler.Escort.Reason+pooler.Reason, "goroutine", "no stack in a report")
				require.Equal(t, 1, strings.Count(log.String(), "step=Run"))
				require.NotContains(t, log.String(), "eviction failed")
				require.Equal(t, c.saves, e.undone == 1)
				require.Contains(t, log.String(), "goroutine", "the stack is logged")
			})
		})
	}
}

// A panic makes no ordinary pod of a database's primary: it stays as long as one whose invocation crashed.
func TestEscort_PanicsOverAKeptPod_EvictedInTheLastMoments(t *testing.T) {
	for name, onlyCopy := range map[string]bool{"its data are elsewhere, too": false, "its data are here only": true} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				node, began := draintest.New().Add(graced("pg-0", time.Minute, "phase", "poolers"), 50*time.Second), time.Now()
				by := panics(&panicking{saves: true, undoWorks: true, onlyCopy: onlyCopy}, &log)
				by.Phases[0].Keeps = true
				by.Phases[0].DelaysCordon = func(drain.Pod) bool { return true }
				by.Recordon = node.Recordon
				node.Uncordon()
				by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
				report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{})
				pg := report.Pods[0]
				require.Contains(t, pg.Escort.Reason, "the escort panicked in Run")
				require.Contains(t, pg.Escort.Reason, "its escort does not run in this drain")
				require.Equal(t, 1, strings.Count(log.String(), "step=Run"))
				require.Equal(t, "recordon", node.Log()[1], "its operator may move it")
				lines := slices.DeleteFunc(node.Log(), func(line string) bool { return strings.HasSuffix(line, "cordon") })
				if onlyCopy {
					require.Empty(t, lines)
					require.Len(t, report.OnlyCopies(), 1)
					return
				}
				require.Equal(t, []string{"evict app/pg-0", "gone app/pg-0"}, lines)
				require.WithinDuration(t, began.Add(9*time.Minute), pg.EvictedAt, 5*time.Second)
				require.True(t, pg.EvictedAt.Before(began.Add(9*time.Minute)), "it has its whole grace")
			})
		})
	}
}

func TestEscort_PanicsWhereverItIsAsked_IsContained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		by := panics(&panicking{}, &log)
		daemon := pod("daemon", "phase", "poolers")
		daemon.Controller = "DaemonSet"
		report := by.Plan([]drain.Pod{daemon}, drain.Node{})
		by.Advise(t.Context(), &report, []drain.Pod{daemon}, drain.Node{})
		require.Equal(t, []string{"the escort panicked in Advise: advise"}, report.Pods[0].Warnings)
		by.ShutDownDaemons(within(t, time.Minute), []drain.Pod{daemon}, drain.Node{}, &report)
		require.Equal(t, "plain", report.Pods[0].Escort.Strategy)
		require.LessOrEqual(t, len(report.Pods[0].Escort.Reason), 1024)
		require.LessOrEqual(t, strings.Count(log.String(), "words of a tenant"), 100, "the log has the beginning of it")
		by.Records = recorded(t, daemon)
		require.ErrorContains(t, by.UndoEscorts(t.Context(), []drain.Pod{daemon}, drain.Node{}), "the escort panicked in Undo: undo")
	})
}

func TestEscort_LowEffortOrNoRecords_PlainEvictions(t *testing.T) {
	for name, change := range map[string]func(*drain.Drainer){
		"after two unclean ends": func(by *drain.Drainer) { by.Effort = drain.EffortNoEscorts },
		"after three":            func(by *drain.Drainer) { by.Effort = drain.EffortMetadata },
		"without a Lease":        func(by *drain.Drainer) { by.Records = nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				e := &escort{}
				by := escorted(e)
				change(&by)
				node := draintest.New().Add(pod("pooler", "phase", "poolers"), s)
				report, _ := by.Drain(within(t, time.Minute), node, drain.Node{})
				require.Empty(t, e.seen)
				require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
				require.Equal(t, "poolers", report.Pods[0].Phase)
			})
		})
	}
}

func TestShutDownDaemons_LowEffort_LeftAlone(t *testing.T) {
	e := &escort{}
	by := escorted(e)
	by.Effort = drain.EffortNoEscorts
	daemon := pod("daemon", "phase", "poolers")
	daemon.Controller = "DaemonSet"
	by.ShutDownDaemons(t.Context(), []drain.Pod{daemon}, drain.Node{}, &drain.Report{})
	require.Empty(t, e.seen)
}

func TestReport_ManyFinishedPods_FewNamed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), s)
		for i := range 150 {
			p := pod(fmt.Sprint("job-", i))
			p.Finished = true
			node.Add(p, 0)
		}
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, 150, report.FinishedPods)
		require.Len(t, report.Pods, 20+1)
	})
}

func TestReport_FinishedPods_Counted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(pod("web"), s)
		for _, name := range []string{"job-1", "job-2", "job-3"} {
			p := pod(name)
			p.Finished = true
			node.Add(p, 0)
		}
		report, _ := drainer().Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, 3, report.FinishedPods)
	})
}
