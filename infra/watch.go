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
	// patience is for how many minutes something that mends itself by the next delivery or the next sweep may last.
	patience = 5
	// lateness is what a message may be older than the longest drain: for its way to the function, and back from it.
	lateness = 5 * time.Minute
)

// alarm goes off when its metric is over a limit (or under it) in each of so many minutes.
type alarm struct {
	name, means string
	metric      awscloudwatch.IMetric
	limit       float64
	under       bool
	minutes     float64
	silence     awscloudwatch.TreatMissingData
}

// alarms returns one alarm for each thing that a person must know. RUNBOOK.md has a heading for each name.
func alarms(d deployment, p parts) []alarm {
	const quiet, alarming = awscloudwatch.TreatMissingData_NOT_BREACHING, awscloudwatch.TreatMissingData_BREACHING
	longest := (d.Drain.MaxDuration + lateness).Seconds()
	return []alarm{
		{
			name: "dlq-not-empty", means: "Messages are in the dead-letter queue. Their attributes say why.",
			metric: p.queues.dead.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum")), minutes: 1, silence: quiet,
		}, {
			name: "pods-forced", means: "A pod was deleted at the deadline despite its PDB or annotation.",
			metric: measure(d, metrics.PodsForced, "Sum"), minutes: 1, silence: quiet,
		}, {
			name: "hook-expired", means: "A lifecycle action ended before its drain was complete: heartbeats stopped.",
			metric: measure(d, metrics.HooksExpired, "Sum"), minutes: 1, silence: quiet,
		}, {
			name: "drain-failed", means: "A drain failed. Its lifecycle action was completed as lifecycle.onFailure says.",
			metric: measure(d, metrics.Drains, "Sum", metrics.Status, "failed"), minutes: 1, silence: quiet,
		}, {
			name: "drain-retries", means: "Drains keep failing, and are retried until their deadlines. The log says why.",
			metric: measure(d, metrics.InvocationsFailed, "Sum"), minutes: patience, silence: quiet,
		}, {
			name: "lambda-errors", means: "Sweeps or manual invocations keep failing, or the function does not start. The log says why.",
			metric: p.function.program.MetricErrors(eachMinute("Sum")), minutes: patience, silence: quiet,
		}, {
			name: "queue-backlog", means: "Events are not taken from the queue: the function is stopped, or all of its executions are in use.",
			metric: p.queues.work.MetricApproximateNumberOfMessagesVisible(eachMinute("Minimum")), minutes: patience, silence: quiet,
		}, {
			name: "queue-age", means: "An event is older than the longest drain and still not handled.",
			metric: p.queues.work.MetricApproximateAgeOfOldestMessage(eachMinute("Maximum")), limit: longest, minutes: 1, silence: quiet,
		}, {
			name: "sweep-missing", means: "No sweep succeeded: lost events are not resent, and waiting instances are not kept alive.",
			metric: measure(d, metrics.Sweeps, "Sum"), limit: 1, under: true, minutes: patience, silence: alarming,
		},
	}
}

func eachMinute(statistic string) *awscloudwatch.MetricOptions {
	return &awscloudwatch.MetricOptions{Statistic: jsii.String(statistic), Period: lasting(time.Minute)}
}

// watch is what people look at, and what calls them.
type watch struct {
	topic     awssns.ITopic
	dashboard awscloudwatch.Dashboard
}

func newWatch(stack awscdk.Stack, d deployment, p parts) watch {
	topic := newTopic(stack, d)
	var all []interfacesawscloudwatch.IAlarmRef
	for _, a := range alarms(d, p) {
		made := a.in(stack, d)
		made.AddAlarmAction(awscloudwatchactions.NewSnsAction(topic))
		all = append(all, made)
	}
	return watch{topic: topic, dashboard: newDashboard(stack, d, p, all)}
}

func (a alarm) in(stack constructs.Construct, d deployment) awscloudwatch.Alarm {
	comparison := awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD
	if a.under {
		comparison = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD
	}
	return awscloudwatch.NewAlarm(stack, jsii.String("Alarm "+a.name), &awscloudwatch.AlarmProps{
		AlarmName: jsii.String(d.StackName() + " " + a.name), AlarmDescription: jsii.String(a.means),
		Metric: a.metric, Threshold: jsii.Number(a.limit), ComparisonOperator: comparison,
		EvaluationPeriods: jsii.Number(a.minutes), TreatMissingData: a.silence,
	})
}

// newTopic is where alarms go: a topic that quiesce.yaml names, or one of the stack's own, to which nobody subscribes by itself.
func newTopic(stack awscdk.Stack, d deployment) awssns.ITopic {
	if d.Stack.AlarmTopic != "" {
		return awssns.Topic_FromTopicArn(stack, jsii.String("Alarms"), jsii.String(d.Stack.AlarmTopic))
	}
	topic := awssns.NewTopic(stack, jsii.String("Alarms"), &awssns.TopicProps{
		DisplayName: jsii.String(d.StackName()), EnforceSSL: jsii.Bool(true),
	})
	// A topic with a policy of its own, as TLS demands, has lost the default one, by which alarms of the account may publish.
	topic.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Actions: jsii.Strings("sns:Publish"), Resources: &[]*string{topic.TopicArn()},
		Principals: &[]awsiam.IPrincipal{awsiam.NewServicePrincipal(jsii.String("cloudwatch.amazonaws.com"), nil)},
		Conditions: &map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": stack.Account()}},
	}))
	return topic
}
