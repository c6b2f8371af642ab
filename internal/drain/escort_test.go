package drain_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// escort takes a while before its eviction and a while after it.
type escort struct {
	ready, linger time.Duration
	options       []drain.EvictOptions // of its evictions, one after the other

	mutex  sync.Mutex
	seen   []drain.EscortRequest
	began  []time.Time
	ended  error // of its context, when the last one returned
	undone []string
}

func (e *escort) note(what func()) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	what()
}

// since returns the pods whose escort started then or later.
func (e *escort) since(at time.Time) (seen []drain.EscortRequest) {
	for i, began := range e.began {
		if !began.Before(at) {
			seen = append(seen, e.seen[i])
		}
	}
	return seen
}

func (e *escort) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	e.note(func() { e.seen, e.began = append(e.seen, p), append(e.began, time.Now()) })
	defer func() { e.note(func() { e.ended = ctx.Err() }) }()
	done := drain.EscortResult{Strategy: "careful", Version: "1.0"}
	select {
	case <-time.After(e.ready):
	case <-ctx.Done():
		return done, context.Cause(ctx)
	}
	for _, o := range e.options {
		if err := p.Evict(ctx, o); err != nil {
			return done, err
		}
	}
	time.Sleep(e.linger)
	return done, nil
}

func (e *escort) ShutDown(_ context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	e.note(func() { e.seen, e.began = append(e.seen, p), append(e.began, time.Now()) })
	return drain.EscortResult{Strategy: "shutdown"}, nil
}

func (e *escort) Undo(_ context.Context, p drain.EscortRequest) error {
	e.undone = append(e.undone, p.String())
	return errors.New("still recorded")
}

func (e *escort) Advise(_ context.Context, p drain.Pod) []string {
	return []string{p.Name + " is slow"}
}

func escorted(e *escort) drain.Drainer {
	if e.options == nil {
		e.options = []drain.EvictOptions{{}}
	}
	by := drainer(drain.Phase{Name: "poolers", Match: labeled("poolers"), Escort: e}, drain.Phase{Name: "workloads"})
	by.Records = &draintest.Records{}
	return by
}

func TestEscort_Evicts_WhenItIsReady(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 3 * time.Second, linger: 10 * time.Second, options: []drain.EvictOptions{{DryRun: true}, {Grace: time.Minute}}}
		node := draintest.New().Add(pod("pooler", "phase", "poolers"), 4*time.Second).Add(pod("web"), time.Second)
		began := time.Now()
		report, _ := escorted(e).Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, []string{"evict app/pooler", "gone app/pooler", "evict app/web", "gone app/web"}, node.Log())
		pooler := report.Pods[0]
		require.Equal(t, drain.Evicted, pooler.Outcome)
		require.Equal(t, began.Add(3*time.Second), pooler.EvictedAt)
		require.Equal(t, "careful", pooler.Escort.Strategy)
		require.Nil(t, report.Pods[1].Escort)
		require.Equal(t, 13*time.Second, time.Since(began), "the drain is over when the escort is")
	})
}

func TestEscort_PDBHasRoomAgain_RunsAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{}
		node := draintest.New().Add(pod("pooler", "phase", "poolers", "budget", "b"), 0)
		node.Allow("b", 0)
		time.AfterFunc(5*time.Second, func() { node.Allow("b", 1) })
		began := time.Now()
		report, _ := escorted(e).Drain(within(t, time.Minute), node, drain.Node{})
		require.WithinDuration(t, began.Add(5*time.Second), report.Pods[0].EvictedAt, time.Second)
		require.Equal(t, []string{"app/b"}, report.Pods[0].BlockedBy)
		require.GreaterOrEqual(t, len(e.seen), 2)
	})
}

// An escort labels its pod. If every change of a pod were a reason to try again, the escort would run without a pause.
func TestEscort_PDBBlocks_NotRunAtEveryChange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{}
		node := draintest.New().Add(pod("pooler", "phase", "poolers", "budget", "b"), 0)
		node.Allow("b", 0)
		ctx := within(t, time.Minute)
		var busy sync.WaitGroup
		busy.Go(func() {
			for ctx.Err() == nil {
				node.Allow("b", 0)
				time.Sleep(10 * time.Millisecond)
			}
		})
		escorted(e).Drain(ctx, node, drain.Node{})
		busy.Wait()
		require.LessOrEqual(t, len(e.seen), 61)
		require.GreaterOrEqual(t, len(e.seen), 30)
	})
}

func TestEscort_DrainCancelled_IsAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: time.Hour}
		node := draintest.New().Add(pod("pooler", "phase", "poolers"), 0)
		report, _ := escorted(e).Drain(within(t, time.Minute), node, drain.Node{})
		require.Equal(t, drain.Waiting, report.Pods[0].Outcome)
		require.Empty(t, node.Log())
	})
}

// recorded returns records in which the pods were changed by an escort of phase poolers.
func recorded(t *testing.T, pods ...drain.Pod) *draintest.Records {
	t.Helper()
	records := &draintest.Records{}
	for _, p := range pods {
		require.NoError(t, records.SetRecord(t.Context(), drain.EscortRecord+p.UID, `{"phase":"poolers","escort":{"paused":true}}`))
	}
	return records
}

// An escort may remove the label by which its phase matches.
func TestRecord_LabelsChange_PodStaysInItsPhase(t *testing.T) {
	p := pod("pooler")
	by := escorted(&escort{})
	require.Equal(t, "workloads", by.Plan([]drain.Pod{p}, drain.Node{}).Pods[0].Phase)
	by.Records = recorded(t, p)
	require.Equal(t, "poolers", by.Plan([]drain.Pod{p}, drain.Node{}).Pods[0].Phase)
}

func TestRecord_PhaseIsGone_PodIsMatchedAgain(t *testing.T) {
	p := pod("pooler")
	by := escorted(&escort{})
	by.Records = &draintest.Records{}
	for _, text := range []string{`{"phase":"of an older configuration"}`, `{"phase":""}`, `garbled`} {
		require.NoError(t, by.Records.SetRecord(t.Context(), drain.EscortRecord+p.UID, text))
		require.Equal(t, "workloads", by.Plan([]drain.Pod{p}, drain.Node{}).Pods[0].Phase, text)
	}
}

// saver is an escort that records a change, and gets what an earlier one recorded.
type saver struct {
	drain.Escort
	err    error
	before []drain.EscortRequest
}

func (s *saver) Run(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	s.before = append(s.before, r)
	if s.err = r.Save(ctx, []byte(`{"paused":true}`), false); s.err != nil {
		return drain.EscortResult{}, r.Evict(ctx, drain.EvictOptions{})
	}
	return drain.EscortResult{}, errors.New("crashed")
}

func TestRecord_SavedByAnEscort_ReachesTheNext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &saver{}
		records := &draintest.Records{}
		by := drainer(drain.Phase{Name: "poolers", Match: labeled("poolers"), Escort: e}, drain.Phase{Name: "workloads"})
		by.Records = records
		pooler := pod("pooler", "phase", "poolers")
		node := draintest.New().Add(pooler, time.Second)
		by.Drain(within(t, 3*time.Second), node, drain.Node{})
		require.Equal(t, map[string]string{drain.EscortRecord + pooler.UID: `{"phase":"poolers","escort":{"paused":true}}`}, records.All())
		require.False(t, e.before[0].Recorded)
		require.True(t, e.before[1].Recorded)
		require.JSONEq(t, `{"paused":true}`, string(e.before[1].Record))
	})
}

// A pod that an earlier escort changed and evicted may still need its escort. A pod without a record stops by itself.
func TestEscort_EarlierOneCrashed_RunsForTerminatingPod(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{}
		changed := pod("recorded", "phase", "poolers")
		other := pod("other", "phase", "poolers")
		changed.Deleted, other.Deleted = time.Now(), time.Now()
		node := draintest.New().Add(changed, 0).Add(other, 0)
		time.AfterFunc(time.Minute, func() { node.Remove("app/recorded"); node.Remove("app/other") })
		by := escorted(e)
		by.Records = recorded(t, changed)
		report, _ := by.Drain(within(t, time.Hour), node, drain.Node{})
		require.Empty(t, report.Remaining())
		require.Len(t, e.seen, 1)
		require.JSONEq(t, `{"paused":true}`, string(e.seen[0].Record))
		require.Equal(t, "recorded", e.seen[0].Name)
		require.Equal(t, []string{"gone app/recorded", "gone app/other"}, node.Log(), "no pod is signaled twice")
		require.Zero(t, report.Pods[0].EvictedAt)
	})
}

func TestShutDownDaemons_EscortedPhase_PodsStoppedInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		daemon, excused := pod("daemon", "phase", "poolers"), pod("excused", "phase", "poolers")
		daemon.Controller, excused.Controller = "DaemonSet", "DaemonSet"
		excused.Annotations = map[string]string{drain.OptOutAnnotation: "false"}
		node := draintest.New().Add(daemon, 0).Add(excused, 0).Add(pod("web"), time.Second)
		e := &escort{}
		by := escorted(e)
		report, _ := by.Drain(within(t, time.Minute), node, drain.Node{})
		require.Nil(t, report.Pods[0].Escort, "not while other pods may need it")
		end := time.Now().Add(10 * time.Second)
		by.ShutDownDaemons(within(t, 10*time.Second), node.Pods(), drain.Node{}, &report)
		require.Equal(t, "shutdown", report.Pods[0].Escort.Strategy)
		require.Equal(t, drain.Skipped, report.Pods[0].Outcome)
		require.Nil(t, report.Pods[1].Escort)
		require.Len(t, e.seen, 1)
		require.Equal(t, end.Add(-2*time.Second), e.seen[0].EvictBy)
		end = time.Now().Add(time.Second)
		by.ShutDownDaemons(within(t, time.Second), node.Pods(), drain.Node{}, &report)
		require.Equal(t, end.Add(-time.Second/2), e.seen[1].EvictBy, "half of a short time")
	})
}

// A drain under a shorter deadline is not a new one: the report keeps what was done, and a phase's time continues.
func TestResume_EarlierDrain_KeepsReportAndClocks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		by := drainer(drain.Phase{Name: "first", Match: labeled("first"), Timeout: time.Minute}, drain.Phase{Name: "workloads"})
		node := draintest.New().Add(pod("quick", "phase", "first"), time.Second).
			Add(pod("slow", "phase", "first"), 50*time.Second).
			Add(pod("stuck", "phase", "first", "budget", "b"), time.Second).Add(pod("web"), time.Second)
		node.Allow("b", 0)
		began := time.Now()
		_, state := by.Drain(within(t, 40*time.Second), node, drain.Node{})
		report, _ := by.Resume(within(t, time.Minute), node, drain.Node{}, state)
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.Equal(t, drain.StillBlocked, report.Pods[2].Outcome)
		require.Equal(t, began, report.Phases[0].StartedAt)
		require.Equal(t, began, report.Pods[1].EvictedAt, "in the earlier drain")
		require.Equal(t, began.Add(time.Minute), report.Pods[3].EvictedAt, "the timeout of the phase before it is over")
	})
}

func TestUndoEscorts_RecordedPods_Only(t *testing.T) {
	e := &escort{}
	changed, labeled := pod("recorded"), pod("labeled", "phase", "poolers", drain.EscortLabel, "careful")
	by := escorted(e)
	by.Records = recorded(t, changed)
	err := by.UndoEscorts(t.Context(), []drain.Pod{changed, labeled, pod("pooler", "phase", "poolers")}, drain.Node{})
	require.ErrorContains(t, err, "still recorded")
	require.Equal(t, []string{"app/recorded"}, e.undone, "a label may be the pod owner's")
}

func TestPlan_Escorts_AddWarnings(t *testing.T) {
	d := escorted(&escort{})
	pods := []drain.Pod{pod("pooler", "phase", "poolers"), pod("web")}
	report := d.Plan(pods, drain.Node{})
	d.Advise(t.Context(), &report, pods, drain.Node{})
	require.Equal(t, []string{"pooler is slow"}, report.Pods[0].Warnings)
	require.Empty(t, report.Pods[1].Warnings)
}

// withLead returns a drainer whose escort has half a minute.
func withLead(e *escort) drain.Drainer {
	by := escorted(e)
	by.Phases[0].Lead = 30 * s
	return by
}

func TestEscort_PodIsDue_EvictionBecomesDeletion(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 2 * s, linger: 5 * s, options: []drain.EvictOptions{{DryRun: true}, {}}}
		node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), 20*s)
		node.Allow("b", 0)
		report, n := drainBy(t, withLead(e), 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"pooler": at(58*s+asking, 30*s)})
		pooler := report.Pods[0]
		require.Equal(t, drain.Forced, pooler.Outcome)
		require.Equal(t, "careful", pooler.Escort.Strategy)
		require.Contains(t, pooler.Reason, "deadline: deleted with 30s of its 30s grace; blocked by app/b")
		require.Equal(t, n.deadline.Add(-30*s-asking), e.seen[0].EvictBy)
		require.Len(t, e.since(n.deadline.Add(-60*s-asking)), 1, "one escort did it")
	})
}

func TestEscort_AsksForMoreGrace_GetsWhatTimeAllows(t *testing.T) {
	for wish, want := range map[time.Duration]time.Duration{45 * s: 45 * s, time.Hour: 58*s + asking} {
		bubble.Test(t, func(t *testing.T) {
			e := &escort{ready: 2 * s, options: []drain.EvictOptions{{Grace: wish}}}
			node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), 20*s)
			node.Allow("b", 0)
			report, n := drainBy(t, withLead(e), 10*time.Minute, node)
			requireDeletions(t, n, map[string]request{"pooler": at(58*s+asking, want)})
			require.Contains(t, report.Pods[0].Reason, "deleted with "+want.String()+" grace")
		})
	}
}

func TestEscort_PodBecomesDueMeanwhile_NotRunTwice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 20 * s}
		node := draintest.New()
		time.AfterFunc(8*time.Minute+50*s, func() { node.Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), s) })
		node.Add(graced("slow", time.Hour), 590*s)
		node.Allow("b", 0)
		report, n := drainBy(t, withLead(e), 10*time.Minute, node)
		require.Len(t, e.seen, 1)
		requireDeletions(t, n, map[string]request{"pooler": at(50*s, 30*s)})
		require.Equal(t, []string{"app/b"}, report.Pods[0].BlockedBy)
	})
}

// Without an end of its escort, the pod would be killed with the instance, without a signal.
func TestEscort_TakesTooLong_EndedAndPodDeleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: time.Hour}
		node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), s)
		node.Allow("b", 0)
		report, n := drainBy(t, withLead(e), 10*time.Minute, node)
		requireDeletions(t, n, map[string]request{"pooler": at(24*s+asking, 24*s+asking)})
		require.Len(t, e.seen, 1)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
	})
}

func TestEscort_TimeTooShort_HasHalfOfIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 10 * s}
		node := draintest.New().Add(graced("pooler", time.Hour, "phase", "poolers", "budget", "b"), s)
		node.Allow("b", 0)
		_, n := drainBy(t, withLead(e), 2*time.Minute, node)
		require.Equal(t, n.deadline.Add(-30*s), e.seen[0].EvictBy)
		require.Greater(t, n.deletions()["pooler"].before, 30*s)
	})
}

// No request may follow an accepted eviction.
func TestEscort_EvictionAccepted_NotEnded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 3 * s, linger: 50 * s}
		node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers", "budget", "b"), 20*s)
		node.Allow("b", 0)
		_, n := drainBy(t, withLead(e), 10*time.Minute, node)
		require.NoError(t, e.ended)
		require.Len(t, n.deletions(), 1)
	})
}

func TestEscort_WithoutForce_HasNoLimit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := &escort{ready: 9*time.Minute + 55*s}
		node := draintest.New().Add(graced("pooler", 30*s, "phase", "poolers"), s)
		by := withLead(e)
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute)}
		report, _ := by.Drain(within(t, 10*time.Minute), node, drain.Node{})
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.Zero(t, e.seen[0].EvictBy)
	})
}
