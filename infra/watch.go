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

// alarms are one for each thing that a person must know. Their names are those of README's runbook.
func alarms(d deployment, p parts) []alarm {
	const quiet, alarming = awscloudwatch.TreatMissingData_NOT_BREACHING, awscloudwatch.TreatMissingData_BREACHING
	longest := (d.Drain.MaxDuration + lateness).Seconds()
	return []alarm{
		{
			name: "dead letters", means: "Something could not be processed: each message says why in its attributes.",
			metric: p.queues.dead.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum")), minutes: 1, silence: quiet,
		}, {
			name: "pods forced", means: "A pod was deleted against its budget or its owner's wish, because time ran out.",
			metric: measure(d, metrics.PodsForced, "Sum"), minutes: 1, silence: quiet,
		}, {
			name: "hook expired", means: "An instance went before its drain was complete: nobody kept its lifecycle action alive.",
			metric: measure(d, metrics.HooksExpired, "Sum"), minutes: 1, silence: quiet,
		}, {
			name: "drain failed", means: "A drain went wrong; its instance was dealt with as lifecycle.onFailure says.",
			metric: measure(d, metrics.Drains, "Sum", metrics.Status, "failed"), minutes: 1, silence: quiet,
		}, {
			name: "drains go wrong", means: "Drains go wrong again and again, and are tried until their deadlines: the log says why.",
			metric: measure(d, metrics.InvocationsFailed, "Sum"), minutes: patience, silence: quiet,
		}, {
			name: "errors", means: "Invocations go on failing: the log has one line for each.",
			metric: p.function.program.MetricErrors(eachMinute("Sum")), minutes: patience, silence: quiet,
		}, {
			name: "events wait", means: "Nobody takes events out of the queue: the function is stopped, or all of its executions are taken.",
			metric: p.queues.work.MetricApproximateNumberOfMessagesVisible(eachMinute("Minimum")), minutes: patience, silence: quiet,
		}, {
			name: "oldest event", means: "An event is older than the longest drain and still not dealt with.",
			metric: p.queues.work.MetricApproximateAgeOfOldestMessage(eachMinute("Maximum")), limit: longest, minutes: 1, silence: quiet,
		}, {
			name: "no sweep", means: "Nobody looks for lost events, nor keeps alive what waits: the function is stopped or broken.",
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
