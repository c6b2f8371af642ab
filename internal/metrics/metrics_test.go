package metrics_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/metrics"
	"quiesce/internal/metrics/metricstest"
	"quiesce/internal/termination"
)

var began = time.Now().Add(-time.Minute)

func after(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }

// written returns the values that CloudWatch extracts, by name and, if there is one, the further dimension.
func written(t *testing.T, write func(*metrics.Log)) map[string]float64 {
	t.Helper()
	var out bytes.Buffer
	write(metrics.New(&out, "prod"))
	all, err := metricstest.Of(out.String())
	require.NoError(t, err)
	require.Equal(t, strings.Count(out.String(), "\n"), strings.Count(out.String(), `"_aws"`), "each line has this format")
	values := map[string]float64{}
	for _, v := range all {
		require.Equal(t, "quiesce", v.Namespace)
		require.Equal(t, "prod", v.Dimensions["Cluster"])
		key := v.Name
		for name, value := range v.Dimensions {
			if name != "Cluster" {
				key += fmt.Sprintf(" %s=%s", name, value)
			}
		}
		require.NotContains(t, values, key, "twice in one invocation")
		values[key] = v.Value
	}
	return values
}

// lastInvocation is the last invocation of a drain in which everything happened that is measured.
func lastInvocation() termination.Invocation {
	return termination.Invocation{
		Began: began, First: true, Ended: true, HeartbeatsFailed: 2, HookExpired: true,
		Report: termination.Report{
			Status: termination.StatusPartial, StartedAt: after(3), FinishedAt: after(50),
			Report: drain.Report{Pods: []drain.PodReport{
				{Name: "web-0", Outcome: drain.Evicted, EvictedAt: after(4), GoneAt: after(5)},
				{Name: "web-1", Outcome: drain.Forced, BlockedAt: after(4), ForcedAt: after(40), GoneAt: after(45)},
				{Name: "web-2", Outcome: drain.Remained, BlockedAt: after(10), ForcedAt: after(20)},
				{Name: "web-3", Outcome: drain.StillRefused},
				{Name: "agent", Outcome: drain.Skipped, Verdict: drain.Skip, Escort: &drain.EscortResult{Strategy: "shutdown"}},
				{
					Name: "pooler-0", Outcome: drain.Evicted, EvictedAt: after(6), GoneAt: after(7),
					Escort: &drain.EscortResult{Strategy: "evict", AbortedDetail: "3 transactions in flight", AbortedTransactions: 3},
				},
			}},
		},
	}
}

func TestInvocation_LastOfADrain_WritesEverything(t *testing.T) {
	i := lastInvocation()
	require.Equal(t, map[string]float64{
		"PodsEvicted": 2, "PodsForced": 2, "PodsRemaining": 1, "PDBBlockedSeconds": 36, "TransactionsAborted": 3, "HeartbeatsFailed": 2,
		"Handoffs": 0, "InvocationsFailed": 0, "HooksExpired": 1, "NodesNotFound": 0, "PodsRefused": 1, "EventsRejected": 0, "EventAgeSeconds": 3, "DrainSeconds": 50,
		"Drains Status=" + string(termination.StatusPartial): 1, "Escorts Strategy=evict": 1, "Escorts Strategy=shutdown": 1,
	}, written(t, func(l *metrics.Log) { l.Invocation(i) }))
}

// An instance that never was in service may have no node: it failed to join.
func TestNodesNotFound_WasInService_IsCounted(t *testing.T) {
	i := termination.Invocation{Ended: true, WasInService: true, Report: termination.Report{Status: termination.StatusNodeNotFound}}
	found := func() float64 { return written(t, func(l *metrics.Log) { l.Invocation(i) })["NodesNotFound"] }
	require.Equal(t, 1.0, found())
	i.WasInService = false
	require.Zero(t, found())
	i.WasInService, i.Report.Status = true, termination.StatusDrained
	require.Zero(t, found())
}

// A drain of two hours has eight invocations, and is one drain.
func TestInvocation_HandsOff_CountsNoDrain(t *testing.T) {
	i := lastInvocation()
	i.Ended, i.Report.Status = false, termination.StatusIncomplete
	values := written(t, func(l *metrics.Log) { l.Invocation(i) })
	require.Equal(t, 1.0, values["Handoffs"])
	require.Equal(t, 0.0, values["InvocationsFailed"])
	require.Equal(t, 2.0, values["PodsForced"], "the next invocation does not count them")
	for _, ended := range []string{"Drains Status=incomplete", "DrainSeconds", "PodsRemaining"} {
		require.NotContains(t, values, ended)
	}
}

// Missing data could mean that nothing was measured.
func TestInvocation_FailedEarly_WritesZeros(t *testing.T) {
	require.Equal(t, map[string]float64{
		"PodsEvicted": 0, "PodsForced": 0, "PDBBlockedSeconds": 0, "TransactionsAborted": 0, "HeartbeatsFailed": 0,
		"Handoffs": 0, "HooksExpired": 0, "InvocationsFailed": 1, "NodesNotFound": 0, "PodsRefused": 0, "EventsRejected": 0,
	}, written(t, func(l *metrics.Log) {
		l.Invocation(termination.Invocation{Report: termination.Report{Status: termination.StatusFailed}})
	}))
}

// A rejected event may be days old: its age would hide the age of every real one.
func TestInvocation_Rejected_HasNoEventAge(t *testing.T) {
	i := lastInvocation()
	i.Began, i.Report.Status = began.Add(-72*time.Hour), termination.StatusRejected
	values := written(t, func(l *metrics.Log) { l.Invocation(i) })
	require.Equal(t, 1.0, values["Drains Status=rejected"])
	require.Equal(t, 1.0, values["EventsRejected"])
	require.NotContains(t, values, "EventAgeSeconds")
	require.NotContains(t, values, "DrainSeconds")
}

// The sweep sends an event again that was lost. When it began is not known, and the zero time is 292 years ago at least.
func TestInvocation_BeganAtAnUnknownTime_HasNoEventAge(t *testing.T) {
	i := lastInvocation()
	i.First, i.Began, i.Report.Status = true, time.Time{}, termination.StatusPlanned
	require.NotContains(t, written(t, func(l *metrics.Log) { l.Invocation(i) }), "EventAgeSeconds")
}

// A plan in shadow mode takes no time, and would make drains look quick.
func TestInvocation_Planned_HasNoDuration(t *testing.T) {
	i := lastInvocation()
	i.Report.Status = termination.StatusPlanned
	values := written(t, func(l *metrics.Log) { l.Invocation(i) })
	require.Equal(t, 1.0, values["Drains Status=planned"])
	require.NotContains(t, values, "DrainSeconds")
}

func TestPDBBlockedSeconds_Overlapping_CountedOnce(t *testing.T) {
	for want, pods := range map[float64][]drain.PodReport{
		0:  {{Name: "never blocked", EvictedAt: after(9)}},
		20: {{BlockedAt: after(10), EvictedAt: after(20)}, {BlockedAt: after(30), GoneAt: after(40)}},
		30: {{BlockedAt: after(10), EvictedAt: after(40)}, {BlockedAt: after(20), EvictedAt: after(30)}},
		40: {{BlockedAt: after(10), EvictedAt: after(30)}, {BlockedAt: after(20)}},
	} {
		i := termination.Invocation{Report: termination.Report{FinishedAt: after(50), Report: drain.Report{Pods: pods}}}
		require.Equal(t, want, written(t, func(l *metrics.Log) { l.Invocation(i) })["PDBBlockedSeconds"], "%+v", pods)
	}
}

func TestLog_SweepsAndEvents_AreCounted(t *testing.T) {
	require.Equal(t, map[string]float64{
		"Sweeps": 1, "InstancesWaiting": 3, "InstancesDraining": 2, "EventsResent": 1, "ClusterUnreachable": 0, "LongestWaitSeconds": 90.5,
		"GroupsWithoutHook": 4, "HooksPut": 5, "InstancesRetained": 0,
	}, written(t, func(l *metrics.Log) {
		l.Sweep(termination.SweepReport{
			Waiting: 3, Draining: 2, EventsResent: 1, ClusterReachable: true, LongestWaitSeconds: 90.5, GroupsWithoutHook: 4, HooksPut: 5,
		})
	}))
	require.Equal(t, 1.0, written(t, func(l *metrics.Log) { l.Sweep(termination.SweepReport{}) })["ClusterUnreachable"])
	require.Equal(t, map[string]float64{"MalformedEvents": 1}, written(t, (*metrics.Log).MalformedEvent))
	require.Equal(t, map[string]float64{"UnhookedStops": 1}, written(t, (*metrics.Log).UnhookedStop))
	require.Equal(t, map[string]float64{"ScheduledChanges": 3, "InstancesReplaced": 2, "InstancesAtRisk": 1}, written(t, func(l *metrics.Log) {
		l.ScheduledChanges(termination.ScheduledCounts{Found: 3, Replaced: 2, AtRisk: 1})
	}))
}

// An instance of unknown age has no age, rather than none.
func TestSweep_RetainedInstances_AreCountedWithTheOldestAge(t *testing.T) {
	report := termination.SweepReport{Retained: []termination.RetainedInstance{{AgeSeconds: new(7200.0)}, {}}, RetainedOmitted: 3}
	values := written(t, func(l *metrics.Log) { l.Sweep(report) })
	require.Equal(t, 5.0, values["InstancesRetained"])
	require.Equal(t, 7200.0, values["OldestRetainedSeconds"])
	report.Retained = report.Retained[1:]
	require.NotContains(t, written(t, func(l *metrics.Log) { l.Sweep(report) }), "OldestRetainedSeconds")
}

func TestCheck_Failed_IsCounted(t *testing.T) {
	good, bad := termination.CheckReport{Steps: []termination.CheckStep{{OK: true}}}, termination.CheckReport{Steps: []termination.CheckStep{{OK: true}, {}}}
	require.Equal(t, map[string]float64{"Checks": 1, "ChecksFailed": 0}, written(t, func(l *metrics.Log) { l.Check(good) }))
	require.Equal(t, map[string]float64{"Checks": 1, "ChecksFailed": 1}, written(t, func(l *metrics.Log) { l.Check(bad) }))
}

func TestRead_LineThatCloudWatchDrops_IsAnError(t *testing.T) {
	now := fmt.Sprint(time.Now().UnixMilli())
	line := func(timestamp, metric, value string) string {
		return `{"_aws":{"Timestamp":` + timestamp + `,"CloudWatchMetrics":[{"Namespace":"n","Dimensions":[["Cluster"]],"Metrics":[` + metric +
			`]}]},"Cluster":"c","m":` + value + `}`
	}
	all, err := metricstest.Read(line(now, `{"Name":"m","Unit":"Count"}`, "1"))
	require.NoError(t, err)
	require.Len(t, all, 1)
	for _, wrong := range []string{
		line("17", `{"Name":"m","Unit":"Count"}`, "1"),
		line(now+".5", `{"Name":"m","Unit":"Count"}`, "1"),
		line(now, `{"Name":"m","Unit":"count"}`, "1"),
		line(now, `{"Name":"m","Unit":"Count"}`, `"1"`),
		line(now, `{"Name":"other","Unit":"Count"}`, "1"),
		line(now, ``, "1"),
		strings.Replace(line(now, `{"Name":"m","Unit":"Count"}`, "1"), `"c"`, `7`, 1),
		strings.Replace(line(now, `{"Name":"m","Unit":"Count"}`, "1"), `"c"`, `""`, 1),
	} {
		_, err := metricstest.Read(wrong)
		require.Error(t, err, wrong)
	}
	all, err = metricstest.Of(`{"msg":"event handled"}` + "\nno JSON\n")
	require.NoError(t, err)
	require.Empty(t, all)
}
