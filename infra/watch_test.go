package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each alarm is an entry of README's runbook.
func TestWhatAPersonMustKnowRaisesAnAlarm(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	const over, under = "GreaterThanThreshold", "LessThanThreshold"
	cluster, queue := "Cluster=prod", "QueueName={SQS::Queue quiesce-prod}.QueueName"
	dead := "QueueName={SQS::Queue quiesce-prod-dead}.QueueName"
	got := map[string][]any{}
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		got[fmt.Sprint(a["AlarmName"])] = []any{
			fmt.Sprint(a["Namespace"], " ", a["MetricName"], " ", a["Statistic"]), dimensions(a), a["ComparisonOperator"], a["Threshold"],
			a["EvaluationPeriods"], a["TreatMissingData"],
		}
		require.EqualValues(t, 60, a["Period"])
	}
	require.Equal(t, map[string][]any{
		"quiesce-prod dead letters": {"AWS/SQS ApproximateNumberOfMessagesVisible Maximum", dead, over, 0.0, 1.0, "notBreaching"},
		"quiesce-prod pods forced":  {"quiesce PodsForced Sum", cluster, over, 0.0, 1.0, "notBreaching"},
		"quiesce-prod hook expired": {"quiesce HooksExpired Sum", cluster, over, 0.0, 1.0, "notBreaching"},
		"quiesce-prod drain failed": {"quiesce Drains Sum", cluster + " Status=failed", over, 0.0, 1.0, "notBreaching"},
		"quiesce-prod errors": {
			"AWS/Lambda Errors Sum", "FunctionName={Lambda::Function quiesce-prod}", over, 0.0, 5.0, "notBreaching",
		},
		"quiesce-prod events wait":  {"AWS/SQS ApproximateNumberOfMessagesVisible Minimum", queue, over, 0.0, 5.0, "notBreaching"},
		"quiesce-prod oldest event": {"AWS/SQS ApproximateAgeOfOldestMessage Maximum", queue, over, 2100.0, 1.0, "notBreaching"},
		"quiesce-prod no sweep":     {"quiesce Sweeps Sum", cluster, under, 1.0, 5.0, "breaching"},
	}, got)
}

func dimensions(a object) string {
	var all []string
	for _, dimension := range a["Dimensions"].([]any) {
		all = append(all, fmt.Sprint(dimension.(object)["Name"], "=", dimension.(object)["Value"]))
	}
	return strings.Join(all, " ")
}

// A drain that takes as long as it may is no alarm.
func TestAnEventIsOldWhenTheLongestDrainWouldBeOver(t *testing.T) {
	alarm := of(t, privateStack, "drains").only(t, "AWS::CloudWatch::Alarm", "AlarmName", "drains oldest event")
	require.EqualValues(t, (40*time.Hour + lateness).Seconds(), alarm["Threshold"])
}

func TestAlarmsGoToATopicThatTheyMayPublishTo(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		require.Equal(t, []any{"{SNS::Topic}"}, a["AlarmActions"])
	}
	require.Contains(t, statementsOf(s.only(t, "AWS::SNS::TopicPolicy")["PolicyDocument"]), object{
		"Sid": "Alarms", "Effect": "Allow", "Action": "sns:Publish", "Resource": "{SNS::Topic}",
		"Principal": object{"Service": "cloudwatch.amazonaws.com"},
		"Condition": object{"StringEquals": object{"aws:SourceAccount": "<AccountId>"}},
	})
	require.Equal(t, "{SNS::Topic}", s.Outputs["Alarms"].Value)
}

func TestAlarmsGoToTheTopicOfTheFile(t *testing.T) {
	s := of(t, privateStack, "drains")
	require.Empty(t, s.all("AWS::SNS::Topic"))
	require.NotEmpty(t, s.all("AWS::CloudWatch::Alarm"))
	for _, a := range s.all("AWS::CloudWatch::Alarm") {
		require.Equal(t, []any{"arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call"}, a["AlarmActions"])
	}
}

func TestTheDashboardAnswersWhatDrainsWhatIsStuckAndWhatWasForced(t *testing.T) {
	dashboard := of(t, publicStack, "quiesce-prod").only(t, "AWS::CloudWatch::Dashboard")
	require.Equal(t, "quiesce-prod", dashboard["DashboardName"])
	body := dashboard["DashboardBody"].(string)
	for _, question := range []string{"What is draining now", "What got stuck", "What was forced"} {
		require.Contains(t, body, "## "+question)
	}
	require.Contains(t, body, `SOURCE '/aws/lambda/quiesce-prod' | filter ispresent(instance)`)
	require.Contains(t, body, `report.status in [\"forced\"]`)
}

// A metric that is nowhere to be seen costs the same as one that is.
func TestEveryMetricIsOnTheDashboard(t *testing.T) {
	body := of(t, publicStack, "quiesce-prod").only(t, "AWS::CloudWatch::Dashboard")["DashboardBody"].(string)
	for _, metric := range []string{
		metricDrains, metricDrainSeconds, metricPodsEvicted, metricPodsForced, metricPodsLeft, metricBlockedSeconds, metricEscorts,
		metricTransactionsCut, metricHeartbeatsFailed, metricHandOvers, metricQueueSeconds, metricHooksExpired, metricMalformed,
		metricSweeps, metricWaiting, metricOwned, metricEnqueued,
	} {
		require.Contains(t, body, `"`+metric, metric)
	}
}
