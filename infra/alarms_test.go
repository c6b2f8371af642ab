package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/metrics"
	"quiesce/internal/metrics/metricstest"
	"quiesce/internal/termination"
)

func TestAlarms_Each_HasMetricAndThreshold(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	const over, under = "GreaterThanThreshold", "LessThanThreshold"
	const fine, breaching = "notBreaching", "breaching"
	cluster, function := "Cluster=prod", "FunctionName={Lambda::Function quiesce-prod}"
	queue, dlq := "QueueName={SQS::Queue quiesce-prod}.QueueName", "QueueName={SQS::Queue quiesce-prod-dlq}.QueueName"
	got := map[string][]any{}
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		name := strings.TrimPrefix(fmt.Sprint(a["AlarmName"]), "quiesce-prod-")
		got[name] = []any{
			fmt.Sprint(a["Namespace"], " ", a["MetricName"], " ", a["Statistic"]), dimensions(a), a["ComparisonOperator"], a["Threshold"],
			fmt.Sprint(a["DatapointsToAlarm"], " of ", a["EvaluationPeriods"]), a["TreatMissingData"],
		}
		require.EqualValues(t, 60, a["Period"])
	}
	require.Equal(t, map[string][]any{
		"dlq-not-empty":       {"AWS/SQS ApproximateNumberOfMessagesVisible Maximum", dlq, over, 0.0, "1 of 1", fine},
		"pods-forced":         {"quiesce PodsForced Sum", cluster, over, 0.0, "1 of 1", fine},
		"hook-expired":        {"quiesce HooksExpired Sum", cluster, over, 0.0, "1 of 1", fine},
		"drain-failed":        {"quiesce Drains Sum", cluster + " Status=failed", over, 0.0, "1 of 1", fine},
		"node-not-found":      {"quiesce NodesNotFound Sum", cluster, over, 0.0, "1 of 1", fine},
		"unhooked-stop":       {"quiesce UnhookedStops Sum", cluster, over, 0.0, "1 of 1", fine},
		"scheduled-change":    {"quiesce InstancesAtRisk Maximum", cluster, over, 0.0, "1 of 1", fine},
		"cluster-unreachable": {"quiesce ClusterUnreachable Maximum", cluster, over, 0.0, "5 of 5", fine},
		"drain-retries":       {"quiesce InvocationsFailed Sum", cluster, over, 0.0, "5 of 15", fine},
		"longest-wait":        {"quiesce LongestWaitSeconds Maximum", cluster, over, 2100.0, "1 of 1", fine},
		"groups-without-hook": {"quiesce GroupsWithoutHook Sum", cluster, over, 0.0, "1 of 65", fine},
		"lambda-errors":       {"AWS/Lambda Errors Sum", function, over, 0.0, "3 of 45", fine},
		"throttled":           {"AWS/Lambda Throttles Sum", function, over, 0.0, "5 of 15", fine},
		"queue-backlog":       {"AWS/SQS ApproximateNumberOfMessagesVisible Minimum", queue, over, 0.0, "5 of 5", fine},
		"events-rejected":     {"quiesce EventsRejected Sum", cluster, over, 0.0, "5 of 15", fine},
		"instances-retained":  {"quiesce InstancesRetained Maximum", cluster, over, 0.0, "5 of 5", fine},
		"check-failed":        {"quiesce ChecksFailed Minimum", cluster, over, 0.0, "1 of 1", "ignore"},
		"sweep-absent":        {"quiesce Sweeps Sum", cluster, under, 1.0, "5 of 5", breaching},
		"sweep-seen":          {"quiesce Sweeps Sum", cluster, under, 1.0, "1 of 1", "ignore"},
		"check-absent":        {"quiesce Checks Sum", cluster, under, 1.0, "180 of 180", breaching},
		"check-seen":          {"quiesce Checks Sum", cluster, under, 1.0, "1 of 1", "ignore"},
	}, got)
	require.Len(t, s.all("AWS::CloudWatch::CompositeAlarm"), 2)
	for _, what := range []string{"sweep", "check"} {
		both := s.only(t, "AWS::CloudWatch::CompositeAlarm", "AlarmName", "quiesce-prod-"+what+"-stopped")
		require.Equal(t, fmt.Sprintf(
			`(ALARM("{CloudWatch::Alarm quiesce-prod-%[1]s-absent}.Arn") AND OK("{CloudWatch::Alarm quiesce-prod-%[1]s-seen}.Arn"))`, what), both["AlarmRule"])
	}
}

// CloudWatch evaluates at most a day (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html), and
// a name has at most 255 characters.
func TestAlarms_LongestStackName_AreWithinLimits(t *testing.T) {
	for _, s := range []template{of(t, publicStack, "quiesce-prod"), of(t, privateStack, "drains")} {
		for _, a := range append(s.all("AWS::CloudWatch::Alarm"), s.all("AWS::CloudWatch::CompositeAlarm")...) {
			if periods, is := a["EvaluationPeriods"].(float64); is {
				require.LessOrEqual(t, periods*a["Period"].(float64), day.Seconds())
			}
			require.Regexp(t, `^[A-Za-z0-9-]{1,191}$`, a["AlarmName"], "64 characters are of the stack's name")
			require.LessOrEqual(t, len(a["AlarmDescription"].(string)), 1024)
		}
	}
}

func dimensions(a object) string {
	var all []string
	for _, dimension := range a["Dimensions"].([]any) {
		all = append(all, fmt.Sprint(dimension.(object)["Name"], "=", dimension.(object)["Value"]))
	}
	return strings.Join(all, " ")
}

// A drain that takes its full time is no alarm.
func TestLongestWaitAlarm_Threshold_IsAboveLongestDrain(t *testing.T) {
	alarm := of(t, privateStack, "drains").only(t, "AWS::CloudWatch::Alarm", "AlarmName", "drains-longest-wait")
	require.EqualValues(t, (40*time.Hour + queueLatency).Seconds(), alarm["Threshold"])
}

// Auto Scaling ends the wait after 100 heartbeat timeouts, or two days. An alarm that is to fire after that never does.
func TestLongestWaitAlarm_EveryDuration_FiresBeforeTheWaitEnds(t *testing.T) {
	for _, longest := range []time.Duration{30 * time.Minute, 33 * time.Hour, 33*time.Hour + 15*time.Minute, 34 * time.Hour, 40 * time.Hour, 47 * time.Hour, 48 * time.Hour} {
		c := config.Config{}
		c.Drain.MaxDuration = longest
		require.Less(t, longestWait(c)+2*time.Minute, c.LongestWait(), "%v", longest)
		if longest < 48*time.Hour {
			require.GreaterOrEqual(t, longestWait(c), longest, "%v: a drain that uses its time is no reason for an alarm", longest)
		}
	}
}

func TestAlarms_NoTopicConfigured_PublishToOwnTopic(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		if silent := strings.Contains(fmt.Sprint(a["AlarmDescription"]), "Part of "); silent {
			require.NotContains(t, a, "AlarmActions", "a part of sweep-stopped or check-stopped")
			continue
		}
		require.Equal(t, []any{"{SNS::Topic}"}, a["AlarmActions"])
	}
	for _, a := range s.all("AWS::CloudWatch::CompositeAlarm") {
		require.Equal(t, []any{"{SNS::Topic}"}, a["AlarmActions"])
	}
	require.Contains(t, statementsOf(s.only(t, "AWS::SNS::TopicPolicy")["PolicyDocument"]), object{
		"Sid": "Alarms", "Effect": "Allow", "Action": "sns:Publish", "Resource": "{SNS::Topic}",
		"Principal": object{"Service": "cloudwatch.amazonaws.com"},
		"Condition": object{"StringEquals": object{"aws:SourceAccount": "<AccountId>"}},
	})
	require.Equal(t, "{SNS::Topic}", s.Outputs["Alarms"].Value)
	require.Contains(t, s.Outputs["Alarms"].Description, "no subscriber")
}

func TestAlarms_TopicConfigured_PublishToIt(t *testing.T) {
	s := of(t, privateStack, "drains")
	require.Empty(t, s.all("AWS::SNS::Topic"))
	require.NotContains(t, s.Outputs["Alarms"].Description, "no subscriber")
	all := notifying(s)
	require.Len(t, all, 19)
	for _, a := range all {
		require.Equal(t, []any{"arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call"}, a["AlarmActions"])
	}
}

// notifying returns the alarms that reach a person.
func notifying(s template) []object {
	all := append(s.all("AWS::CloudWatch::Alarm"), s.all("AWS::CloudWatch::CompositeAlarm")...)
	return slices.DeleteFunc(all, func(a object) bool { return a["AlarmActions"] == nil })
}

func TestDashboard_EachQuestion_HasARow(t *testing.T) {
	dashboard := of(t, publicStack, "quiesce-prod").only(t, "AWS::CloudWatch::Dashboard")
	require.Equal(t, "quiesce-prod", dashboard["DashboardName"])
	body := dashboard["DashboardBody"].(string)
	for _, heading := range []string{"What is draining now", "What got stuck", "What was forced", "Overview"} {
		require.Contains(t, body, "## "+heading)
	}
	require.Contains(t, body, `SOURCE '/aws/lambda/quiesce-prod' | filter ispresent(instance)`)
	require.Contains(t, body, `report.status in [\"forced\"]`)
}

// A metric that no graph shows costs as much as one that does. An alarm on a metric that is never written never fires, or always.
func TestDashboard_EveryWrittenMetric_IsShown(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	shown := shownOn(t, s.only(t, "AWS::CloudWatch::Dashboard")["DashboardBody"].(string))
	require.Equal(t, written(t), shown)
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		if a["Namespace"] == metrics.Namespace {
			require.Contains(t, shown, series(fmt.Sprint(a["MetricName"]), namesOf(a["Dimensions"].([]any))))
		}
	}
}

// written returns all metrics that the function can write, each with its dimensions.
func written(t *testing.T) map[string]bool {
	t.Helper()
	var log bytes.Buffer
	writer := metrics.New(&log, "prod")
	writer.MalformedEvent()
	writer.UnhookedStop()
	writer.ScheduledChanges(termination.ScheduledCounts{})
	writer.Sweep(termination.SweepReport{Retained: []termination.RetainedInstance{{AgeSeconds: new(1.0)}}})
	writer.Check(termination.CheckReport{})
	writer.Invocation(termination.Invocation{First: true, Ended: true, Began: time.Now(), Report: termination.Report{
		Status: termination.StatusDrained,
		Report: drain.Report{Pods: []drain.PodReport{{GoneAt: time.Now(), Escort: &drain.EscortResult{Strategy: "evict"}}}},
	}})
	values, err := metricstest.Of(log.String())
	require.NoError(t, err)
	all := map[string]bool{}
	for _, v := range values {
		require.Equal(t, metrics.Namespace, v.Namespace)
		all[series(v.Name, slices.Sorted(maps.Keys(v.Dimensions)))] = true
	}
	return all
}

// searched is the form of the query for a metric with each value of a dimension.
var searched = regexp.MustCompile(`SEARCH\('\{([^}]+)\} MetricName="([A-Za-z]+)" Cluster="prod"'`)

// shownOn returns the function's metrics on a dashboard, each with its dimensions.
func shownOn(t *testing.T, body string) map[string]bool {
	t.Helper()
	var dashboard struct {
		Widgets []struct {
			Properties struct{ Metrics [][]any }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &dashboard))
	all := map[string]bool{}
	for _, widget := range dashboard.Widgets {
		for _, m := range widget.Properties.Metrics {
			if expression, is := m[0].(object); is {
				found := searched.FindStringSubmatch(fmt.Sprint(expression["expression"]))
				require.NotNil(t, found, "%v", expression)
				names := strings.Split(found[1], ",")
				require.Equal(t, metrics.Namespace, names[0])
				all[series(found[2], names[1:])] = true
			} else if m[0] == metrics.Namespace {
				require.Equal(t, []any{metrics.Cluster, "prod"}, m[2:4])
				all[series(fmt.Sprint(m[1]), []string{metrics.Cluster})] = true
			}
		}
	}
	return all
}

func namesOf(dimensions []any) (names []string) {
	for _, d := range dimensions {
		names = append(names, fmt.Sprint(d.(object)["Name"]))
	}
	return names
}

func series(name string, dimensions []string) string {
	return name + " by " + strings.Join(dimensions, ", ")
}
