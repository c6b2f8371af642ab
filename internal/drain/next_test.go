package drain

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// noEscort is an escort that is never called: next only asks whether there is one.
type noEscort struct{ Escort }

func TestNext_ProgressAndPod_DecideTheAction(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ago, in := now.Add(-time.Second), now.Add(time.Second)
	planned := func(v Verdict) Planned { return Planned{Decision: Decision{Verdict: v}} }
	due := func(v Verdict) Planned { p := planned(v); p.Due = true; return p }
	terminating := planned(Wait)
	terminating.Deleted = ago
	changed, full := conditions{changes: 1}, conditions{evicting: 1}
	resting := conditions{pace: pace{restUntil: in}}
	escorting, recorded := conditions{phase: Phase{Escort: noEscort{}}}, conditions{phase: Phase{Escort: noEscort{}}, recorded: true}
	escortingFull := conditions{phase: escorting.phase, evicting: 9, pace: pace{restUntil: in}}
	for name, c := range map[string]struct {
		progress requests
		pod      Planned
		conditions
		do   action
		wake time.Time
	}{
		"a new pod is evicted":              {pod: planned(Evict), do: doEvict},
		"a request in flight is awaited":    {progress: requests{inFlight: true}, pod: planned(Evict)},
		"even if the pod is due":            {progress: requests{inFlight: true}, pod: due(Evict)},
		"a terminating pod is awaited":      {pod: terminating},
		"a skipped pod is skipped":          {pod: planned(Skip)},
		"a held pod is kept":                {pod: planned(Hold)},
		"a held pod that is due is evicted": {pod: due(Hold), do: doEvict},
		"a PDB that never has room may be repaired by a change": {
			progress: requests{latest: never, retryAt: in}, pod: planned(Evict), conditions: changed, do: doEvict,
		},
		"and is not asked without one":  {progress: requests{latest: never, retryAt: in}, pod: planned(Evict), wake: in},
		"a failed request is repeated":  {progress: requests{latest: failed, retryAt: ago}, pod: planned(Evict), do: doEvict},
		"but not before its time":       {progress: requests{latest: failed, retryAt: in}, pod: planned(Evict), wake: in},
		"nor because something changed": {progress: requests{latest: failed, retryAt: in}, pod: planned(Evict), conditions: changed, wake: in},
		"a blocked eviction waits for a change": {
			progress: requests{latest: blocked, retryAt: in, changes: 1}, pod: planned(Evict), conditions: changed, wake: in,
		},
		"a change is worth another try": {progress: requests{latest: blocked, retryAt: in}, pod: planned(Evict), conditions: changed, do: doEvict},
		"unless it comes too soon": {
			progress: requests{latest: blocked, notBefore: in, retryAt: in}, pod: planned(Evict), conditions: changed, wake: in,
		},
		"a pod that just became due does not wait": {progress: requests{latest: failed, notBefore: in, retryAt: in}, pod: due(Evict), do: doEvict},
		"unless its eviction was accepted":         {progress: requests{latest: accepted, retryAt: in}, pod: due(Evict), wake: in},
		"or was tried since":                       {progress: requests{latest: failed, attempt: tried, retryAt: in}, pod: due(Evict), wake: in},
		"a due pod that was refused is deleted":    {progress: requests{latest: failed, attempt: exhausted}, pod: due(Evict), do: doDelete},
		"a deletion that failed waits too":         {progress: requests{latest: failed, attempt: exhausted, retryAt: in}, pod: due(Evict), wake: in},
		"too many are in flight":                   {pod: planned(Evict), conditions: full},
		"a due pod has all the room":               {pod: due(Evict), conditions: full, do: doEvict},
		"the server rests":                         {pod: planned(Evict), conditions: resting, wake: in},
		"not for a due pod":                        {pod: due(Evict), conditions: resting, do: doEvict},
		"an escort runs":                           {pod: planned(Evict), conditions: escorting, do: doEscort},
		"an escort is not throttled":               {pod: planned(Evict), conditions: escortingFull, do: doEscort},
		"an escort has time until its limit": {
			progress: requests{evictBy: in}, pod: due(Evict), conditions: escorting, do: doEscort,
		},
		"after it the pod is evicted": {
			progress: requests{evictBy: now}, pod: due(Evict), conditions: escorting, do: doEvict,
		},
		"and deleted if that is refused": {
			progress: requests{evictBy: now, attempt: exhausted}, pod: due(Evict), conditions: escorting, do: doDelete,
		},
		"a crashed escort runs once more": {
			pod: terminating, conditions: recorded, do: doEscort,
		},
		"and not twice": {
			progress: requests{escorted: true}, pod: terminating, conditions: recorded,
		},
		"a terminating pod without a record needs no escort": {pod: terminating, conditions: escorting},
	} {
		t.Run(name, func(t *testing.T) {
			c.now = now
			c.pace.limit, c.pace.now = 2, 1
			do, wake := next(progress{requests: c.progress}, c.pod, c.conditions)
			require.Equal(t, c.do, do)
			require.Equal(t, c.wake, wake)
		})
	}
}

func (c conditions) with(change func(*conditions)) conditions {
	change(&c)
	return c
}

// The first request fixes the limit: one that is computed anew would move with the clock.
func TestEvictBy_FirstRequest_FixesIt(t *testing.T) {
	started := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := conditions{
		now: started, limits: Limits{StartedAt: started, Deadline: started.Add(10 * time.Minute), Force: true},
		phase: Phase{Escort: noEscort{}, Lead: time.Minute},
	}
	pod := Planned{Pod: Pod{Grace: 30 * time.Second}}
	want := c.limits.Deadline.Add(-30 * time.Second)
	require.Equal(t, want, c.evictBy(progress{}, pod))
	fixed := progress{requests: requests{evictBy: started}}
	require.Equal(t, started, c.evictBy(fixed, pod))
	require.Zero(t, c.with(func(c *conditions) { c.limits.Force = false }).evictBy(progress{}, pod))
	require.Zero(t, c.with(func(c *conditions) { c.phase.Escort = nil }).evictBy(progress{}, pod))
	pod.Deleted = started
	require.Zero(t, c.evictBy(progress{}, pod))
}

func TestOutcome_ReportAndEnding_Decide(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		line   PodReport
		ending ending
		want   Outcome
	}{
		"skipped from the first":                   {PodReport{Verdict: Skip}, running, Skipped},
		"skipped, and gone all the same":           {PodReport{Verdict: Skip, GoneAt: at}, stuck, Skipped},
		"skipped after its eviction was accepted":  {PodReport{Verdict: Skip, EvictedAt: at}, running, Remained},
		"not asked yet":                            {PodReport{Verdict: Evict}, running, Waiting},
		"not asked again since":                    {PodReport{Verdict: Evict, BlockedBy: []string{"x"}}, running, Waiting},
		"blocked once, and evicted":                {PodReport{Verdict: Evict, BlockedBy: []string{"x"}, EvictedAt: at}, stopping, Waiting},
		"evicted and gone":                         {PodReport{Verdict: Evict, EvictedAt: at, GoneAt: at}, stopping, Evicted},
		"evicted by someone else and gone":         {PodReport{Verdict: Wait, GoneAt: at}, stopping, Evicted},
		"gone when only finalizers kept it":        {PodReport{Verdict: Evict, GoneAt: at}, ended, Evicted},
		"gone long after its containers ended":     {PodReport{Verdict: Evict, GoneAt: at}, stuck, Evicted},
		"kept by finalizers for too long":          {PodReport{Verdict: Evict, EvictedAt: at}, stuck, Remained},
		"deleted, and kept by finalizers":          {PodReport{Verdict: Evict, ForcedAt: at}, stuck, Forced},
		"deleted and stopping":                     {PodReport{Verdict: Evict, ForcedAt: at}, stopping, Waiting},
		"deleted and gone":                         {PodReport{Verdict: Evict, ForcedAt: at, GoneAt: at}, stopping, Forced},
		"deleted on an unreachable node":           {PodReport{Verdict: Evict, ForcedAt: at}, abandoned, Remained},
		"gone from an unreachable node, unstopped": {PodReport{Verdict: Evict, EvictedAt: at, GoneAt: at}, abandoned, Remained},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, (&progress{line: c.line, ending: c.ending}).outcome())
		})
	}
}

func TestOutcome_NotToldToStop_SaysWhy(t *testing.T) {
	for _, why := range []Outcome{StillBlocked, StillRefused} {
		require.Equal(t, why, (&progress{line: PodReport{Verdict: Evict}, holdup: why}).outcome())
		require.Equal(t, Waiting, (&progress{line: PodReport{Verdict: Evict, EvictedAt: time.Unix(1, 0)}, holdup: why, ending: stopping}).outcome())
	}
}
