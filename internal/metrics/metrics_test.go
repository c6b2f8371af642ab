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

// written are the values that CloudWatch takes out of what is written, each under its name and, if it has one, its further dimension.
func written(t *testing.T, write func(*metrics.Log)) map[string]float64 {
	t.Helper()
	var out bytes.Buffer
	write(metrics.New(&out, "prod"))
	all, err := metricstest.Of(out.String())
	require.NoError(t, err)
	require.Equal(t, strings.Count(out.String(), "\n"), strings.Count(out.String(), `"_aws"`), "each line is of this format")
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
		require.NotContains(t, values, key, "twice in one slice")
		values[key] = v.Value
	}
	return values
}

// last is a drain's last slice, in which a bit of everything happened.
func last() termination.Invocation {
	return termination.Invocation{
		Began: began, First: true, Ended: true, HeartbeatsFailed: 2, HookExpired: true,
		Report: termination.Report{
			Status: termination.StatusPartial, StartedAt: after(3), FinishedAt: after(50),
			Report: drain.Report{Pods: []drain.PodReport{
				{Name: "web-0", Outcome: drain.Evicted, EvictedAt: after(4), GoneAt: after(5)},
				{Name: "web-1", Outcome: drain.Forced, BlockedAt: after(4), ForcedAt: after(40), GoneAt: after(45)},
				{Name: "web-2", Outcome: drain.Remained, BlockedAt: after(10), ForcedAt: after(20)},
				{Name: "agent", Outcome: drain.Skipped, Verdict: drain.Skip, Escort: &drain.EscortResult{Strategy: "shutdown"}},
				{
					Name: "pooler-0", Outcome: drain.Evicted, EvictedAt: after(6), GoneAt: after(7),
					Escort: &drain.EscortResult{Strategy: "evict", AbortedDetail: "3 transactions in flight", AbortedTransactions: 3},
				},
			}},
		},
	}
}

func TestASliceTellsWhatItDidAndADrainsLastOneHowItEnded(t *testing.T) {
	s := last()
	require.Equal(t, map[string]float64{
		"PodsEvicted": 2, "PodsForced": 2, "PodsLeft": 1, "BlockedSeconds": 36, "TransactionsCut": 3, "HeartbeatsFailed": 2,
		"HandOvers": 0, "SlicesFailed": 0, "HooksExpired": 1, "QueueSeconds": 3, "DrainSeconds": 50, "Drains Status=left": 1, "Escorts Strategy=evict": 1,
		"Escorts Strategy=shutdown": 1,
	}, written(t, func(l *metrics.Log) { l.Invocation(s) }))
}

// A drain of two hours has eight slices, and is one drain.
func TestASliceThatHandsOverCountsNoDrain(t *testing.T) {
	s := last()
	s.Ended, s.Report.Status = false, termination.StatusIncomplete
	values := written(t, func(l *metrics.Log) { l.Invocation(s) })
	require.Equal(t, 1.0, values["HandOvers"])
	require.Equal(t, 0.0, values["SlicesFailed"])
	require.Equal(t, 2.0, values["PodsForced"], "which the next slice does not know of")
	for _, ended := range []string{"Drains Status=incomplete", "DrainSeconds", "PodsLeft"} {
		require.NotContains(t, values, ended)
	}
}

// Silence could mean that nobody looked.
func TestASliceInWhichNothingHappenedButItsFailureSaysSo(t *testing.T) {
	require.Equal(t, map[string]float64{
		"PodsEvicted": 0, "PodsForced": 0, "BlockedSeconds": 0, "TransactionsCut": 0, "HeartbeatsFailed": 0,
		"HandOvers": 0, "HooksExpired": 0, "SlicesFailed": 1,
	}, written(t, func(l *metrics.Log) {
		l.Invocation(termination.Invocation{Report: termination.Report{Status: termination.StatusFailed}})
	}))
}

// A plan in shadow mode takes no time, and would make drains look quick.
func TestAPlanHasNoDuration(t *testing.T) {
	s := last()
	s.Report.Status = termination.StatusPlanned
	values := written(t, func(l *metrics.Log) { l.Invocation(s) })
	require.Equal(t, 1.0, values["Drains Status=planned"])
	require.NotContains(t, values, "DrainSeconds")
}

func TestTimesThatBudgetsHeldBackPodsAreNotCountedTwice(t *testing.T) {
	for want, pods := range map[float64][]drain.PodReport{
		0:  {{Name: "never blocked", EvictedAt: after(9)}},
		20: {{BlockedAt: after(10), EvictedAt: after(20)}, {BlockedAt: after(30), GoneAt: after(40)}},
		30: {{BlockedAt: after(10), EvictedAt: after(40)}, {BlockedAt: after(20), EvictedAt: after(30)}},
		40: {{BlockedAt: after(10), EvictedAt: after(30)}, {BlockedAt: after(20)}},
	} {
		s := termination.Invocation{Report: termination.Report{FinishedAt: after(50), Report: drain.Report{Pods: pods}}}
		require.Equal(t, want, written(t, func(l *metrics.Log) { l.Invocation(s) })["BlockedSeconds"], "%+v", pods)
	}
}

func TestSweepsAndMalformedEventsAreCounted(t *testing.T) {
	require.Equal(t, map[string]float64{"Sweeps": 1, "Waiting": 3, "Owned": 2, "Enqueued": 1}, written(t, func(l *metrics.Log) {
		l.Sweep(termination.SweepReport{Waiting: 3, Draining: 2, EventsResent: 1})
	}))
	require.Equal(t, map[string]float64{"Malformed": 1}, written(t, (*metrics.Log).MalformedEvent))
}

func TestWhatCloudWatchWouldDropIsNoticed(t *testing.T) {
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
	all, err = metricstest.Of(`{"msg":"done"}` + "\nno JSON\n")
	require.NoError(t, err)
	require.Empty(t, all)
}
