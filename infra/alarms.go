package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/interfaces/interfacesawscloudwatch"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
	"quiesce/internal/metrics"
)

const (
	// sustained is for how many minutes a problem must last that the next delivery or the next sweep may solve.
	sustained = 5
	// retryMinutes is in how many minutes that many failures of deliveries must fall. A delivery may take minutes to fail, so that
	// most minutes have none.
	retryMinutes = 3 * sustained
	// repeated is how many minutes with a crash are no accident. A single one is a bad minute of AWS: the next delivery or sweep
	// repairs it.
	repeated = 3
	// crashMinutes is in how many minutes they must fall. The slowest series of crashes is that of an invocation that dies before
	// its first action: its message returns after the visibility timeout. Longer would add up failed sweeps of unrelated causes.
	crashMinutes = repeated * int(visibility/time.Minute)
	// hookMinutes is for how many minutes a group without our hook counts. Sweeps look at it once an hour, or up to two minutes later.
	// A longer time delays the end of the alarm after the hook is there.
	hookMinutes = 65
	// checkMinutes is for how many minutes no check may have completed. There is one each hour, so two in a row are missed. With less, one
	// that a bad minute of AWS ended would be an alarm. With more, lost permissions go unseen for longer.
	checkMinutes = 180
	// queueLatency is how much longer than the longest drain an instance may wait: until its event reaches the function, until its
	// lifecycle action is completed, and until Auto Scaling shows that.
	queueLatency = 5 * time.Minute
)

// alarm fires when its metric is above a threshold (or below it) in enough of the last minutes.
type alarm struct {
	name, description string
	metric            awscloudwatch.IMetric
	threshold         float64
	below             bool
	minutes           int
	enough            int // of the minutes; 0: all
	missing           awscloudwatch.TreatMissingData
}

// fine is how alarms on counts of problems see a minute without data: there was no problem, or nothing that could have one.
const fine = awscloudwatch.TreatMissingData_NOT_BREACHING

// alarms returns one alarm for each problem that a person must know of, except those of newStoppedAlarms. RUNBOOK.md has a
// heading for each name.
func alarms(d deployment, p parts) []alarm {
	return slices.Concat(drainAlarms(d), deliveryAlarms(d, p), standingAlarms(d))
}

// drainAlarms returns the alarms about what drains did, and about the cluster.
func drainAlarms(d deployment) []alarm {
	return []alarm{
		{
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
			name: "node-not-found",
			description: "An instance that had been in service is no node of the cluster, so nothing was drained. " +
				"The group may belong to another cluster.",
			metric: measure(d, metrics.NodesNotFound, "Sum"), minutes: 1, missing: fine,
		}, {
			name: "unhooked-stop",
			description: "An instance of a configured group stopped or terminated without waiting on the hook. " +
				"Nothing was drained, and it is too late.",
			metric: measure(d, metrics.UnhookedStops, "Sum"), minutes: 1, missing: fine,
		}, {
			name: "scheduled-change",
			description: "EC2 changes an instance within hours, and it cannot be replaced before: the group has no hook, or a request failed. " +
				"Only with drain.onScheduledChange.",
			metric: measure(d, metrics.InstancesAtRisk, "Maximum"), minutes: 1, missing: fine,
		}, {
			name:        "cluster-unreachable",
			description: "Sweeps cannot read the cluster: drains would fail too. The log has the reason.",
			metric:      measure(d, metrics.ClusterUnreachable, "Maximum"), minutes: sustained, missing: fine,
		}, {
			name:        "drain-retries",
			description: "Drains keep failing. They retry until their deadlines. The log has the reason.",
			metric:      measure(d, metrics.InvocationsFailed, "Sum"), minutes: retryMinutes, enough: sustained, missing: fine,
		}, {
			name:        "longest-wait",
			description: "An instance has waited on the hook for longer than a drain may take.",
			metric:      measure(d, metrics.LongestWaitSeconds, "Maximum"), minutes: 1, missing: fine,
			threshold: longestWait(d.Config).Seconds(),
		}, {
			name:        "groups-without-hook",
			description: "A configured group has no hook: its instances are terminated undrained. The log names it.",
			metric:      measure(d, metrics.GroupsWithoutHook, "Sum"), minutes: hookMinutes, enough: 1, missing: fine,
		},
	}
}

// longestWait is how long an instance may wait on the hook before the alarm longest-wait fires. With the longest drain that is possible, it fires
// before the drain's time is over: Auto Scaling ends the wait then.
func longestWait(c config.Config) time.Duration {
	return min(c.Drain.MaxDuration+queueLatency, c.LongestWait()-queueLatency)
}

// deliveryAlarms returns the alarms about what reaches the function, and whether it runs. There is none on the age of the oldest
// message: SQS leaves out messages that were received more than three times
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html).
// queue-backlog sees messages that were not received, and longest-wait the instances of the others.
func deliveryAlarms(d deployment, p parts) []alarm {
	return []alarm{
		{
			name:        "dlq-not-empty",
			description: "The dead-letter queue has messages: malformed or undeliverable events. Their attributes have the reason.",
			metric:      p.queues.dlq.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum")), minutes: 1, missing: fine,
		}, {
			name: "lambda-errors",
			description: "Invocations keep failing. It covers startup failures (invalid configuration), crashes, timeouts, " +
				"failed sweeps and failed manual invocations. The log has the reason.",
			metric: p.function.lambda.MetricErrors(eachMinute("Sum")), minutes: crashMinutes, enough: repeated, missing: fine,
		}, {
			name:        "queue-backlog",
			description: "Events wait and none is received: all of stack.maxConcurrency are draining, or the function is stopped.",
			metric:      p.queues.events.MetricApproximateNumberOfMessagesVisible(eachMinute("Minimum")), minutes: sustained, missing: fine,
		}, {
			name: "throttled",
			description: "Lambda has no execution for the function. Events that it could not deliver are hidden for 15 minutes, " +
				"so queue-backlog does not see them.",
			metric: p.function.lambda.MetricThrottles(eachMinute("Sum")), minutes: retryMinutes, enough: sustained, missing: fine,
		},
	}
}

// standingAlarms returns the alarms about what stays as it is until a person acts.
func standingAlarms(d deployment) []alarm {
	return []alarm{
		{
			// A backlog after an outage is rejected within minutes. What goes on for longer has a cause that stays: another program
			// completes our lifecycle actions first, or someone replays or forges events.
			name: "events-rejected",
			description: "Events keep being rejected: their instances do not wait on the hook. Another program may complete its " +
				"lifecycle actions, or someone replays or forges events.",
			metric: measure(d, metrics.EventsRejected, "Sum"), minutes: retryMinutes, enough: sustained, missing: fine,
		}, {
			name: "instances-retained",
			description: "A group keeps instances whose termination was abandoned. They run and cost until someone terminates them. " +
				"A sweep's report lists them.",
			metric: measure(d, metrics.InstancesRetained, "Maximum"), minutes: sustained, missing: fine,
		}, {
			// Between two checks the alarm keeps its state. So the next good check, also a manual one, ends it. It does so within the same minute
			// too: a deployment repeats a check that fails, because new permissions need a while.
			name:        "check-failed",
			description: "The last check failed: the next drain may too. The check's report names the step, and what to do.",
			metric:      measure(d, metrics.ChecksFailed, "Minimum"), minutes: 1, missing: awscloudwatch.TreatMissingData_IGNORE,
		},
	}
}

// newStoppedAlarms creates the alarms about what the function no longer does by itself.
func newStoppedAlarms(stack constructs.Construct, d deployment) []awscloudwatch.AlarmBase {
	return []awscloudwatch.AlarmBase{
		newStoppedAlarm(stack, d, "sweep", metrics.Sweeps, sustained,
			"No sweep completed: the function is stopped or fails, or the sweep's rule is disabled. "+
				"Waiting instances get no heartbeat, and lost events are not resent."),
		newStoppedAlarm(stack, d, "check", metrics.Checks, checkMinutes,
			"No check completed for three hours: it crashes, or its rule is disabled. So check-failed says nothing, and lost permissions go unseen."),
	}
}

// newStoppedAlarm creates the alarm of something that runs again and again: it did not in the last minutes, but it did before them. A new
// stack has no data, which means nothing: its first sweep is minutes away. So two alarms without actions stand behind this one. The
// first takes missing data for a missing run. The second is in state OK from the first run on, because it keeps its state
// while data is missing (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html).
func newStoppedAlarm(stack constructs.Construct, d deployment, what, metric string, minutes int, description string) awscloudwatch.AlarmBase {
	absent := alarm{
		name:        what + "-absent",
		description: "Part of " + what + "-stopped: no " + what + " completed. Also in alarm before the first " + what + " of a new stack.",
		metric:      measure(d, metric, "Sum"), threshold: 1, below: true, minutes: minutes,
		missing: awscloudwatch.TreatMissingData_BREACHING,
	}.create(stack, d)
	seen := alarm{
		name:        what + "-seen",
		description: "Part of " + what + "-stopped: OK from the first " + what + " on.",
		metric:      measure(d, metric, "Sum"), threshold: 1, below: true, minutes: 1,
		missing: awscloudwatch.TreatMissingData_IGNORE,
	}.create(stack, d)
	return awscloudwatch.NewCompositeAlarm(stack, jsii.String("Alarm "+what+"-stopped"), &awscloudwatch.CompositeAlarmProps{
		CompositeAlarmName: jsii.String(d.StackName() + "-" + what + "-stopped"),
		AlarmDescription:   jsii.String(description),
		AlarmRule: awscloudwatch.AlarmRule_AllOf(
			awscloudwatch.AlarmRule_FromAlarm(absent, awscloudwatch.AlarmState_ALARM),
			awscloudwatch.AlarmRule_FromAlarm(seen, awscloudwatch.AlarmState_OK),
		),
	})
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
	notifying := newStoppedAlarms(stack, d)
	for _, a := range alarms(d, p) {
		notifying = append(notifying, a.create(stack, d))
	}
	var all []interfacesawscloudwatch.IAlarmRef
	for _, a := range notifying {
		a.AddAlarmAction(awscloudwatchactions.NewSnsAction(topic))
		all = append(all, a)
	}
	return monitoring{topic: topic, dashboard: newDashboard(stack, d, p, all)}
}

func (a alarm) create(stack constructs.Construct, d deployment) awscloudwatch.Alarm {
	comparison := awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD
	if a.below {
		comparison = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD
	}
	enough := cmp.Or(a.enough, a.minutes)
	return awscloudwatch.NewAlarm(stack, jsii.String("Alarm "+a.name), &awscloudwatch.AlarmProps{
		AlarmName: jsii.String(d.StackName() + "-" + a.name), AlarmDescription: jsii.String(a.description),
		Metric: a.metric, Threshold: jsii.Number(a.threshold), ComparisonOperator: comparison,
		EvaluationPeriods: jsii.Number(a.minutes), DatapointsToAlarm: jsii.Number(enough), TreatMissingData: a.missing,
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
