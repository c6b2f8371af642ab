package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/interfaces/interfacesawscloudwatch"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/metrics"
)

const (
	// sustained is for how many minutes a problem must last that the next delivery or the next sweep may solve.
	sustained = 5
	// queueLatency is how much older than the longest drain a message may be: the time to reach the function, and to be deleted.
	queueLatency = 5 * time.Minute
)

// alarm fires when its metric is above a threshold (or below it) in each of some consecutive minutes.
type alarm struct {
	name, description string
	metric            awscloudwatch.IMetric
	threshold         float64
	below             bool
	minutes           float64
	missing           awscloudwatch.TreatMissingData
}

// alarms returns one alarm for each problem that a person must know of. RUNBOOK.md has a heading for each name.
func alarms(d deployment, p parts) []alarm {
	const fine, breaching = awscloudwatch.TreatMissingData_NOT_BREACHING, awscloudwatch.TreatMissingData_BREACHING
	maxAge := (d.Drain.MaxDuration + queueLatency).Seconds()
	return []alarm{
		{
			name:        "dlq-not-empty",
			description: "The dead-letter queue has messages: malformed or undeliverable events. Their attributes have the reason.",
			metric:      p.queues.dlq.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum")), minutes: 1, missing: fine,
		}, {
			name:        "pods-forced",
			description: "A pod was deleted at the deadline despite its PDB or annotation.",
			metric:      measure(d, metrics.PodsForced, "Sum"), minutes: 1, missing: fine,
		}, {
			name:        "hook-expired",
			description: "A lifecycle action ended before its drain did: it was completed elsewhere, or heartbeats failed.",
			metric:      measure(d, metrics.HooksExpired, "Sum"), minutes: 1, missing: fine,
		}, {
			name:        "drain-failed",
			description: "A drain failed for good. Its lifecycle action was completed as lifecycle.onFailure says.",
			metric:      measure(d, metrics.Drains, "Sum", metrics.Status, "failed"), minutes: 1, missing: fine,
		}, {
			name:        "drain-retries",
			description: "Drains keep failing. They retry until their deadlines. The log has the reason.",
			metric:      measure(d, metrics.InvocationsFailed, "Sum"), minutes: sustained, missing: fine,
		}, {
			name: "lambda-errors",
			description: "Invocations keep failing. It covers startup failures (invalid configuration), crashes, timeouts, " +
				"failed sweeps and failed manual invocations. The log has the reason.",
			metric: p.function.lambda.MetricErrors(eachMinute("Sum")), minutes: sustained, missing: fine,
		}, {
			name:        "queue-backlog",
			description: "Events wait and none is received: all executions are in use, or the function may be stopped.",
			metric:      p.queues.events.MetricApproximateNumberOfMessagesVisible(eachMinute("Minimum")), minutes: sustained, missing: fine,
		}, {
			name:        "queue-age",
			description: "An event is older than the longest drain and still not handled.",
			metric:      p.queues.events.MetricApproximateAgeOfOldestMessage(eachMinute("Maximum")), threshold: maxAge, minutes: 1, missing: fine,
		}, {
			name: "sweep-missing",
			description: "No sweep completed: the function is stopped or fails, or the sweep's rule is disabled. " +
				"Waiting instances get no heartbeat, and lost events are not resent.",
			metric: measure(d, metrics.Sweeps, "Sum"), threshold: 1, below: true, minutes: sustained, missing: breaching,
		},
	}
}

func eachMinute(statistic string) *awscloudwatch.MetricOptions {
	return &awscloudwatch.MetricOptions{Statistic: jsii.String(statistic), Period: duration(time.Minute)}
}

// monitoring is the dashboard, and the topic of the alarms.
type monitoring struct {
	topic     awssns.ITopic
	dashboard awscloudwatch.Dashboard
}

// newMonitoring creates the alarms, their topic and the dashboard.
func newMonitoring(stack awscdk.Stack, d deployment, p parts) monitoring {
	topic := newTopic(stack, d)
	var all []interfacesawscloudwatch.IAlarmRef
	for _, a := range alarms(d, p) {
		created := a.create(stack, d)
		created.AddAlarmAction(awscloudwatchactions.NewSnsAction(topic))
		all = append(all, created)
	}
	return monitoring{topic: topic, dashboard: newDashboard(stack, d, p, all)}
}

func (a alarm) create(stack constructs.Construct, d deployment) awscloudwatch.Alarm {
	comparison := awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD
	if a.below {
		comparison = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD
	}
	return awscloudwatch.NewAlarm(stack, jsii.String("Alarm "+a.name), &awscloudwatch.AlarmProps{
		AlarmName: jsii.String(d.StackName() + "-" + a.name), AlarmDescription: jsii.String(a.description),
		Metric: a.metric, Threshold: jsii.Number(a.threshold), ComparisonOperator: comparison,
		EvaluationPeriods: jsii.Number(a.minutes), TreatMissingData: a.missing,
	})
}

// newTopic returns the topic of the alarms: the one in quiesce.yaml, or a new one, which has no subscriber yet.
func newTopic(stack awscdk.Stack, d deployment) awssns.ITopic {
	if d.Stack.AlarmTopic != "" {
		return awssns.Topic_FromTopicArn(stack, jsii.String("Alarms"), jsii.String(d.Stack.AlarmTopic))
	}
	topic := awssns.NewTopic(stack, jsii.String("Alarms"), &awssns.TopicProps{
		DisplayName: jsii.String(d.StackName()), EnforceSSL: jsii.Bool(true),
	})
	// EnforceSSL gives the topic its own policy. That replaces the default policy, which allows alarms of the account to publish.
	topic.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Actions: jsii.Strings("sns:Publish"), Resources: &[]*string{topic.TopicArn()},
		Principals: &[]awsiam.IPrincipal{awsiam.NewServicePrincipal(jsii.String("cloudwatch.amazonaws.com"), nil)},
		Conditions: &map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": stack.Account()}},
	}))
	return topic
}
