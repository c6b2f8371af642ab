package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/metrics"
	"quiesce/internal/metrics/metricstest"
	"quiesce/internal/termination"
)

// minute is what happens in one minute: to the function, to its queues, and in Lambda.
type minute struct {
	log     *metrics.Log // the function's; nothing is written while it does not run
	invoked bool         // Lambda started the function, and so has counts of it
	errors  float64      // invocations that crashed, timed out or returned an error
	throttled,
	visible, // messages that were not received
	dead float64 // messages in the dead-letter queue
}

// swept is a minute with a sweep, which there is in almost every one.
func (m *minute) swept(r termination.SweepReport) {
	m.invoked = true
	r.Status, r.ClusterReachable = termination.StatusSwept, true
	m.log.Sweep(r)
}

// drained is the end of an invocation. status says how it ended.
func (m *minute) drained(status termination.Status, ended bool, pods ...drain.PodReport) {
	m.invoked = true
	m.log.Invocation(termination.Invocation{
		First: true, Ended: ended, Report: termination.Report{Status: status, Report: drain.Report{Pods: pods}},
	})
}

// waiting is a sweep that finds an instance that has waited since minute zero.
func waiting(n int) termination.SweepReport {
	return termination.SweepReport{Waiting: 1, LongestWaitSeconds: (time.Duration(n) * time.Minute).Seconds()}
}

// situations are an hour each, minute by minute, and the alarms that must fire in it. No other may.
var situations = []struct {
	name  string
	in    func(n int, m *minute)
	fires []string
}{
	{"quiet", func(_ int, m *minute) { m.swept(termination.SweepReport{}) }, nil},
	{"first deployment", func(n int, m *minute) {
		if n >= 10 { // the stack's alarms may exist minutes before its rule
			m.swept(termination.SweepReport{})
		}
	}, nil},
	{"drains that end well", func(n int, m *minute) {
		m.swept(waiting(n % 30))
		m.drained(termination.StatusDrained, true, drain.PodReport{Outcome: drain.Evicted})
		m.drained(termination.StatusIncomplete, false)
		m.visible = float64(n % 3) // each waits for a moment
	}, nil},
	{"stopped, no event", func(n int, m *minute) {
		if n < 10 {
			m.swept(termination.SweepReport{})
		}
	}, []string{"sweep-stopped"}},
	{"stopped, an event waits", func(n int, m *minute) {
		if n < 10 {
			m.swept(termination.SweepReport{})
			return
		}
		m.visible = 1 // the event source mapping is disabled, so no poller hides it
	}, []string{"queue-backlog", "sweep-stopped"}},
	{"event source mapping disabled, an event waits 30 minutes", func(n int, m *minute) {
		m.swept(waiting(min(n, 30)))
		if n < 30 {
			m.visible = 1
		}
	}, []string{"queue-backlog"}},
	{"no executions in the account", func(n int, m *minute) {
		if n%4 == 0 { // some sweeps get one
			m.swept(waiting(n % 30))
		} else {
			m.throttled = 2 // the pollers take the event, and hide it for 15 minutes each time
		}
	}, []string{"throttled"}},
	{"invalid configuration", func(n int, m *minute) {
		if n < 5 {
			m.swept(termination.SweepReport{})
			return
		}
		m.invoked, m.errors = true, 1
	}, []string{"lambda-errors", "sweep-stopped"}},
	{"out of memory every three minutes", func(n int, m *minute) {
		m.swept(waiting(n % 30))
		if n%3 == 0 {
			m.errors = 1
		}
	}, []string{"lambda-errors"}},
	{"out of memory before the first action, every 15 minutes", func(n int, m *minute) {
		m.swept(waiting(n % 30))
		if n%15 == 0 {
			m.errors = 1
		}
	}, []string{"lambda-errors"}},
	{"a drain crashes until its instance waits an hour", func(n int, m *minute) {
		m.swept(waiting(n)) // the message was received too often to have an age
		if n%5 == 0 {
			m.errors = 1
		}
	}, []string{"lambda-errors", "longest-wait"}},
	{"two sweeps fail in an hour", func(n int, m *minute) {
		if n == 10 || n == 40 {
			m.invoked, m.errors = true, 1
			return
		}
		m.swept(termination.SweepReport{})
	}, nil},
	{"cluster unreachable", func(n int, m *minute) {
		m.invoked = true
		m.log.Sweep(termination.SweepReport{Status: termination.StatusSwept, ClusterReachable: false})
	}, []string{"cluster-unreachable"}},
	{"cluster unreachable for two minutes", func(n int, m *minute) {
		m.invoked = true
		m.log.Sweep(termination.SweepReport{Status: termination.StatusSwept, ClusterReachable: n != 20 && n != 21})
	}, nil},
	{"drains fail every three minutes", func(n int, m *minute) {
		m.swept(waiting(n % 30))
		if n%3 == 0 {
			m.drained(termination.StatusFailed, false)
		}
	}, []string{"drain-retries"}},
	{"a drain fails for good", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.drained(termination.StatusFailed, true)
		}
	}, []string{"drain-failed"}},
	{"a pod is forced", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.drained(termination.StatusForced, true, drain.PodReport{Outcome: drain.Forced, ForcedAt: time.Now()})
		}
	}, []string{"pods-forced"}},
	{"the hook expires", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.log.Invocation(termination.Invocation{
				HookExpired: true, Ended: true, Report: termination.Report{Status: termination.StatusDrained},
			})
		}
	}, []string{"hook-expired"}},
	{"no node of an instance that was in service", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.log.Invocation(termination.Invocation{
				Ended: true, WasInService: true, Report: termination.Report{Status: termination.StatusNodeNotFound},
			})
		}
	}, []string{"node-not-found"}},
	{"an instance is stopped by hand", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.log.UnhookedStop()
		}
	}, []string{"unhooked-stop"}},
	{"instances are replaced before a scheduled change", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 17 {
			m.log.ScheduledChanges(termination.ScheduledCounts{Found: 3, Replaced: 1})
		}
	}, nil},
	{"an instance cannot be replaced before a scheduled change", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 17 {
			m.log.ScheduledChanges(termination.ScheduledCounts{Found: 1, AtRisk: 1})
		}
	}, []string{"scheduled-change"}},
	{"a group without hook", func(n int, m *minute) {
		if n == 20 { // its turn is once an hour
			m.swept(termination.SweepReport{GroupsWithoutHook: 1})
			return
		}
		m.swept(termination.SweepReport{HooksPut: 1})
	}, []string{"groups-without-hook"}},
	{"after an outage, a backlog is rejected within three minutes", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		for range 100 {
			if n >= 30 && n < 33 {
				m.drained(termination.StatusRejected, true)
			}
		}
	}, nil},
	{"another program completes our lifecycle actions first", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n%3 == 0 {
			m.drained(termination.StatusRejected, true)
		}
	}, []string{"events-rejected"}},
	{"a group keeps an instance", func(n int, m *minute) {
		if n < 10 {
			m.swept(termination.SweepReport{})
			return
		}
		m.swept(termination.SweepReport{Retained: []termination.RetainedInstance{{InstanceID: "i-a"}}})
	}, []string{"instances-retained"}},
	{"a person terminates a retained instance at once", func(n int, m *minute) {
		if n < 30 || n > 32 {
			m.swept(termination.SweepReport{})
			return
		}
		m.swept(termination.SweepReport{Retained: []termination.RetainedInstance{{InstanceID: "i-a"}}})
	}, nil},
	{"checks succeed", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 5 {
			m.log.Check(termination.CheckReport{Steps: []termination.CheckStep{{Name: "groups", OK: true}}})
		}
	}, nil},
	{"a check fails", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 5 {
			m.log.Check(termination.CheckReport{Steps: []termination.CheckStep{{Name: "groups"}}})
		}
	}, []string{"check-failed"}},
	{"a check fails after a deployment, and is repeated within the minute", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 5 {
			m.log.Check(termination.CheckReport{Steps: []termination.CheckStep{{Name: "cluster"}}})
			m.log.Check(termination.CheckReport{Steps: []termination.CheckStep{{Name: "cluster", OK: true}}})
		}
	}, nil},
	{"a message in the dead-letter queue", func(n int, m *minute) {
		m.swept(termination.SweepReport{})
		if n == 30 {
			m.log.MalformedEvent()
		}
		if n >= 30 {
			m.dead = 1
		}
	}, []string{"dlq-not-empty"}},
}

func TestAlarms_EachSituation_RingsWhatItMust(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	ever := map[string]bool{}
	for _, situation := range situations {
		fired := watch(t, s, time.Hour, situation.in)
		require.Equal(t, situation.fires, fired, situation.name)
		for _, name := range fired {
			ever[name] = true
		}
	}
	const oneDeploymentAndOneHour = 2
	for checks, fires := range map[int][]string{0: nil, oneDeploymentAndOneHour: {"check-stopped"}, 100: nil} {
		fired := watch(t, s, 5*time.Hour, func(n int, m *minute) {
			m.swept(termination.SweepReport{})
			if n%60 == 7 && n/60 < checks {
				m.log.Check(termination.CheckReport{Status: termination.StatusChecked})
			}
		})
		require.Equal(t, fires, fired, "%d checks, one each hour", checks)
		for _, name := range fired {
			ever[name] = true
		}
	}
	require.Len(t, ever, len(notifying(s)), "each alarm fires in some situation")
}

// A group is looked at once an hour. In between the alarm must not end, or it would fire each hour anew.
func TestGroupsWithoutHookAlarm_HookMissingForHours_RingsOnceAndEndsByItself(t *testing.T) {
	alarm := watchedAlarms(of(t, publicStack, "quiesce-prod"))["groups-without-hook"]
	data, fired, ended := map[int]float64{}, 0, 0
	for n := range 400 {
		data[n] = 0
		if n%61 == 10 && n < 200 { // a minute late each time, then there is a hook
			data[n] = 1
		}
		before := alarm.state
		alarm.evaluate(data, n)
		switch {
		case before != "ALARM" && alarm.state == "ALARM":
			fired++
		case before == "ALARM" && alarm.state == "OK":
			ended = n
		}
	}
	require.Equal(t, 1, fired)
	require.Equal(t, 193+hookMinutes, ended)
}

// watch evaluates the alarms of a new stack each minute for so long. It returns the ones that fired, sorted.
func watch(t *testing.T, s template, long time.Duration, in func(n int, m *minute)) (fired []string) {
	t.Helper()
	watched := watchedAlarms(s)
	data := map[string]map[int]float64{} // values by alarm and minute
	for name := range watched {
		data[name] = map[int]float64{}
	}
	for n := range int(long.Minutes()) {
		var out bytes.Buffer
		m := minute{log: metrics.New(&out, "prod")}
		in(n, &m)
		values := m.values(t, out.String())
		for name, a := range watched {
			if of := values[a.series]; len(of) > 0 {
				data[name][n] = statistics[a.statistic](of)
			}
			a.evaluate(data[name], n)
		}
		for _, what := range []string{"sweep", "check"} {
			if name := what + "-stopped"; isStopped(watched, what) && !slices.Contains(fired, name) {
				fired = append(fired, name)
			}
		}
		for _, a := range watched {
			if a.notifies && a.state == "ALARM" && !slices.Contains(fired, a.name) {
				fired = append(fired, a.name)
			}
		}
	}
	slices.Sort(fired)
	return fired
}

// isStopped reports whether the rule of a composite alarm holds: see TestAlarms_Each_HasMetricAndThreshold.
func isStopped(watched map[string]*watchedAlarm, what string) bool {
	return watched[what+"-absent"].state == "ALARM" && watched[what+"-seen"].state == "OK"
}

// values returns what CloudWatch has of the minute, by series. Lambda has counts of a function for minutes in which it was
// invoked or throttled. SQS has those of a queue each minute.
func (m *minute) values(t *testing.T, log string) map[string][]float64 {
	t.Helper()
	all := map[string][]float64{
		"AWS/SQS ApproximateNumberOfMessagesVisible QueueName={SQS::Queue quiesce-prod}.QueueName":     {m.visible},
		"AWS/SQS ApproximateNumberOfMessagesVisible QueueName={SQS::Queue quiesce-prod-dlq}.QueueName": {m.dead},
	}
	const function = " FunctionName={Lambda::Function quiesce-prod}"
	if m.invoked {
		all["AWS/Lambda Errors"+function] = []float64{m.errors}
	}
	if m.invoked || m.throttled > 0 {
		all["AWS/Lambda Throttles"+function] = []float64{m.throttled}
	}
	written, err := metricstest.Of(log)
	require.NoError(t, err)
	for _, v := range written {
		series := fmt.Sprintf("%s %s Cluster=%s", v.Namespace, v.Name, v.Dimensions[metrics.Cluster])
		if status := v.Dimensions[metrics.Status]; status != "" {
			series += " Status=" + status
		}
		all[series] = append(all[series], v.Value)
	}
	return all
}

// statistics are what alarms make of the values of one minute.
var statistics = map[string]func([]float64) float64{
	"Maximum": slices.Max[[]float64], "Minimum": slices.Min[[]float64],
	"Sum": func(values []float64) (sum float64) {
		for _, v := range values {
			sum += v
		}
		return sum
	},
}

// watchedAlarm is an alarm of the template, and its state.
type watchedAlarm struct {
	name, series, statistic, missing string
	notifies, below                  bool
	threshold                        float64
	enough, of                       int // minutes
	state                            string
}

func watchedAlarms(s template) map[string]*watchedAlarm {
	all := map[string]*watchedAlarm{}
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		w := &watchedAlarm{
			name:      strings.TrimPrefix(fmt.Sprint(a["AlarmName"]), "quiesce-prod-"),
			series:    fmt.Sprint(a["Namespace"], " ", a["MetricName"], " ", dimensions(a)),
			statistic: a["Statistic"].(string), missing: fmt.Sprint(a["TreatMissingData"]), notifies: a["AlarmActions"] != nil, below: a["ComparisonOperator"] == "LessThanThreshold",
			threshold: a["Threshold"].(float64), enough: int(a["DatapointsToAlarm"].(float64)), of: int(a["EvaluationPeriods"].(float64)),
			state: "INSUFFICIENT_DATA", // the state of a new alarm
		}
		all[w.name] = w
	}
	return all
}

// lookBack is how many minutes more than those of the alarm CloudWatch looks at, for data that came late.
const lookBack = 2

// evaluate sets the state after minute n as CloudWatch does: what is there decides. Only if it is too little, missing data counts
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html).
func (w *watchedAlarm) evaluate(data map[int]float64, n int) {
	there, breaching := 0, 0
	for at := n; at > n-w.of-lookBack && there < w.of; at-- {
		value, is := data[at]
		if !is {
			continue
		}
		there++
		if w.below && value < w.threshold || !w.below && value > w.threshold {
			breaching++
		}
	}
	absent := w.of - there
	if w.missing == "ignore" && absent > 0 {
		return
	}
	if w.missing == "breaching" {
		breaching += absent
	}
	w.state = "OK"
	if breaching >= w.enough {
		w.state = "ALARM"
	}
}
