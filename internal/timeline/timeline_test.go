package timeline

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

var start = time.Date(2026, 3, 2, 4, 5, 6, 0, time.UTC)

func after(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

// sample returns the reports of a drain that two invocations did: a pooler that was held, a blocked pod, a forced one, one that remained.
func sample() (first, second termination.Report) {
	first = termination.Report{
		Status: termination.StatusIncomplete, InstanceID: "i-0abc", Node: "ip-10-0-1-2.ec2.internal", StartedAt: start, Deadline: after(110),
		FinishedAt: after(40), Reason: "the invocation ends soon",
	}
	first.Phases = []drain.PhaseReport{{Name: "databases", StartedAt: after(1), FinishedAt: after(9)}, {Name: "poolers", StartedAt: after(9), FinishedAt: after(15)}, {Name: "workloads", StartedAt: after(15)}}
	first.Pods = []drain.PodReport{
		{Namespace: "db", Name: "orders-0", UID: "1", Phase: "databases", Outcome: drain.Evicted, EvictedAt: after(6), GoneAt: after(9), Escort: &drain.EscortResult{
			Kind: "postgres", Strategy: "switchover", HeldBackAt: after(2), HeldBackSeconds: 3.2}},
		{Namespace: "db", Name: "pgbouncer-7c9d8f-x2x9p", UID: "2", Phase: "poolers", Outcome: drain.Evicted, EvictedAt: after(11), GoneAt: after(15), Escort: &drain.EscortResult{
			Kind: "pgbouncer", Strategy: "evict", HeldBackAt: after(10.5), HeldBackSeconds: 0.5}},
		{Namespace: "web", Name: "blocked", UID: "3", Phase: "workloads", Outcome: drain.StillBlocked, BlockedAt: after(16), BlockedBy: []string{"web/quorum"}},
		{Namespace: "web", Name: "slow", UID: "4", Phase: "workloads", Outcome: drain.Waiting, EvictedAt: after(16)},
		{Namespace: "kube-system", Name: "proxy", UID: "5", Outcome: drain.Skipped},
	}
	for i := range 12 {
		first.Pods = append(first.Pods, drain.PodReport{Namespace: "web", Name: fmt.Sprintf("web-6d5f7c9b4-%05d", i*77), UID: fmt.Sprint("w", i), Phase: "workloads",
			Outcome: drain.Evicted, EvictedAt: after(15.5 + float64(i)/10), GoneAt: after(18 + float64(i*i)/9)})
	}
	second = first
	second.Status, second.LifecycleResult, second.StartedAt, second.FinishedAt = termination.StatusPartial, termination.Continue, after(41), after(111)
	second.Reason = "web/slow did not stop in time"
	second.Phases = []drain.PhaseReport{{Name: "workloads", StartedAt: after(42), FinishedAt: after(111)}}
	second.Pods = []drain.PodReport{
		{Namespace: "web", Name: "blocked", UID: "3", Phase: "workloads", Outcome: drain.Forced, BlockedAt: after(43), ForcedAt: after(90), GoneAt: after(96)},
		{Namespace: "web", Name: "slow", UID: "4", Phase: "workloads", Outcome: drain.Remained, Reason: "did not stop"},
	}
	return first, second
}

func TestJoin_TwoInvocations_OneDrain(t *testing.T) {
	first, second := sample()
	sweep := termination.Report{Status: termination.StatusSwept}
	drains := Join([]termination.Report{second, sweep, first, first})
	require.Len(t, drains, 1)
	d := drains[0]
	require.Equal(t, []time.Time{start, after(41)}, d.Invocations)
	require.Equal(t, termination.StatusPartial, d.Report.Status)
	require.Equal(t, start, d.Report.StartedAt)
	require.Len(t, d.Report.Pods, len(first.Pods))
	require.Equal(t, drain.PodReport{Namespace: "web", Name: "blocked", UID: "3", Phase: "workloads", Outcome: drain.Forced,
		BlockedAt: after(16), BlockedBy: []string{"web/quorum"}, ForcedAt: after(90), GoneAt: after(96)}, d.Report.Pods[2])
	require.Equal(t, after(16), d.Report.Pods[3].EvictedAt)
	require.Equal(t, drain.PhaseReport{Name: "workloads", StartedAt: after(15), FinishedAt: after(111)}, d.Report.Phases[2])
	require.Equal(t, []interval{{after(2), after(5.2)}}, d.held[first.Pods[0].Ref()])
}

func TestJoin_TwoInstances_TwoDrainsInTheirOrder(t *testing.T) {
	early, late := sample()
	late.InstanceID = "i-0def"
	drains := Join([]termination.Report{late, early})
	require.Len(t, drains, 2)
	require.Equal(t, "i-0abc", drains[0].Report.InstanceID)
}

// An instance that returned from a warm pool, or was retained, is drained again days later.
func TestJoin_InstanceIsDrainedAgain_TwoDrains(t *testing.T) {
	first, second := sample()
	first.LifecycleResult = termination.Continue
	drains := Join([]termination.Report{first, first, second})
	require.Len(t, drains, 2)
	require.Equal(t, []time.Time{start}, drains[0].Invocations)
	require.Equal(t, after(41), drains[1].Report.StartedAt)
}

// Without its start a drain has no length, and an axis of 2000 years has no end.
func TestJoin_ReportWithoutStart_IsLeftOut(t *testing.T) {
	first, second := sample()
	second.StartedAt = time.Time{}
	drains := Join([]termination.Report{second, first})
	require.Len(t, drains, 1)
	require.Equal(t, []time.Time{start}, drains[0].Invocations)
	require.ErrorContains(t, Draw(io.Discard, Join([]termination.Report{second})), "a report has an instanceId, startedAt and pods")
}

func TestBars_Pod_PartsFollowEachOther(t *testing.T) {
	for name, c := range map[string]struct {
		pod  drain.PodReport
		want []bar
	}{
		"evicted":           {drain.PodReport{EvictedAt: after(2), GoneAt: after(5)}, []bar{{waits, after(1), after(2)}, {stops, after(2), after(5)}}},
		"blocked, evicted":  {drain.PodReport{BlockedAt: after(2), EvictedAt: after(3), GoneAt: after(5)}, []bar{{waits, after(1), after(2)}, {blocked, after(2), after(3)}, {stops, after(3), after(5)}}},
		"evicted, forced":   {drain.PodReport{EvictedAt: after(2), ForcedAt: after(6), GoneAt: after(7)}, []bar{{waits, after(1), after(2)}, {stops, after(2), after(6)}, {forced, after(6), after(7)}}},
		"remained":          {drain.PodReport{EvictedAt: after(2)}, []bar{{waits, after(1), after(2)}, {stops, after(2), after(9)}}},
		"left by itself":    {drain.PodReport{GoneAt: after(4)}, []bar{{waits, after(1), after(4)}}},
		"told before":       {drain.PodReport{EvictedAt: after(0.5), GoneAt: after(4)}, []bar{{waits, after(1), after(1)}, {stops, after(1), after(4)}}},
		"told, gone before": {drain.PodReport{EvictedAt: after(2), GoneAt: after(0.5)}, nil},
	} {
		require.Equal(t, c.want, bars(c.pod, after(1), after(9)), name)
	}
}

func TestDraw_Drain_EverythingIsThere(t *testing.T) {
	first, second := sample()
	picture := draw(t, first, second)
	requireXML(t, picture)
	count := func(class string) int { return strings.Count(picture, `class="`+class+`"`) - 1 } // except that of the legend
	require.Equal(t, 1, count(blocked))
	require.Equal(t, 1, count(forced))
	require.Equal(t, 2, count(held))
	require.Equal(t, 15, strings.Count(picture, `class="gone"`))
	for _, words := range []string{
		"ip-10-0-1-2.ec2.internal (i-0abc) · partial · CONTINUE", "2 invocations", ">invocation 2<", ">deadline<", ">databases<", "web/blocked",
		"forced · PDB web/quorum", "postgres switchover · clients waited 3.2s", "Left alone, such as pods of DaemonSets: 1.", "web/slow did not stop in time",
	} {
		require.Contains(t, picture, words)
	}
	require.NotContains(t, picture, "kube-system/proxy")
	require.Equal(t, picture, draw(t, second, first), "the same drain")
}

func TestDraw_NothingToDraw_ErrorSaysWhat(t *testing.T) {
	err := Draw(io.Discard, Join([]termination.Report{{Status: termination.StatusSwept}}))
	require.ErrorContains(t, err, "a report has an instanceId, startedAt and pods")
}

// What a report says comes from tenants: names, reasons, PDBs.
func TestWritePage_HostileWords_AreText(t *testing.T) {
	first, _ := sample()
	const attack = `</title></style><script>alert(1)</script>`
	first.Reason, first.Node = attack, attack
	first.Pods[2].Name, first.Pods[2].Reason, first.Pods[2].BlockedBy = attack, attack, []string{attack}
	first.Phases[0].Name, first.Pods[0].Phase = attack, attack
	var page bytes.Buffer
	require.NoError(t, WritePage(&page, Join([]termination.Report{first})))
	require.NotContains(t, page.String(), "<script")
	require.Contains(t, page.String(), "<svg")
	require.NotContains(t, page.String(), "src=", "the page needs no other file")
	require.NotContains(t, page.String(), "href=")
}

func TestTick_AnySpan_RoundNumbers(t *testing.T) {
	for span, want := range map[time.Duration]time.Duration{
		time.Second: 100 * time.Millisecond, 9 * time.Second: time.Second, 40 * time.Second: 5 * time.Second, 3 * time.Minute: 20 * time.Second,
		8 * time.Minute: time.Minute, 30 * time.Minute: 5 * time.Minute, 48 * time.Hour: 5 * time.Hour,
	} {
		require.Equal(t, want, tick(span), "%s", span)
	}
}

func draw(t *testing.T, reports ...termination.Report) string {
	t.Helper()
	var picture bytes.Buffer
	require.NoError(t, Draw(&picture, Join(reports)))
	if folder := os.Getenv("PICTURES"); folder != "" { // to look at
		require.NoError(t, os.WriteFile(filepath.Join(folder, t.Name()+".svg"), picture.Bytes(), 0o600))
	}
	return picture.String()
}

func requireXML(t *testing.T, text string) {
	t.Helper()
	for decoder := xml.NewDecoder(strings.NewReader(text)); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

func TestShort_Duration_AsPeopleWriteIt(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 2340 * time.Millisecond: "2.3s", time.Minute: "1m", 80 * time.Second: "1m20s", 2 * time.Hour: "2h", 2*time.Hour + 3*time.Minute: "2h3m",
	} {
		require.Equal(t, want, short(d))
	}
}
