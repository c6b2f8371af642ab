package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

const (
	// deliveryTimeout is how long EventBridge tries to send an event to the queue. The sweep replaces a lost one after two minutes.
	// After an hour, a person should know.
	deliveryTimeout = time.Hour
	// deliveryAttempts is the maximum of EventBridge, so that deliveryTimeout decides.
	deliveryAttempts = 185
	// sweepInterval is the shortest interval of a rule. An instance whose event was lost waits for two sweeps.
	sweepInterval = time.Minute
	// checkInterval is how long lost access or permissions can go unseen while no node is terminated. A check costs one request per
	// group, and the sweep sees within minutes that the cluster is unreachable. So an hour is often enough.
	checkInterval = time.Hour
)

// newMapping invokes the function with one message at a time. A drain may take a whole invocation, and a failed one must not
// return other messages to the queue.
func newMapping(d deployment, p parts) awslambda.EventSourceMapping {
	return p.function.live.AddEventSourceMapping(jsii.String("Events"), &awslambda.EventSourceMappingOptions{
		EventSourceArn:          p.queues.events.QueueArn(),
		BatchSize:               jsii.Number(1),
		ReportBatchItemFailures: jsii.Bool(true),
		MaxConcurrency:          jsii.Number(d.Stack.MaxConcurrency),
	})
}

// newRules sends the events of Auto Scaling and EC2 to the queue.
func newRules(stack awscdk.Stack, d deployment, p parts) constructs.IDependable {
	all := constructs.NewConstruct(stack, jsii.String("Rules"))
	rules := []awsevents.CfnRule{
		newRule(all, "Terminations", "Instances that wait on the lifecycle hook "+d.Lifecycle.Hook, terminations(d), p.queues),
	}
	if len(interruptionTypes(d)) > 0 {
		rules = append(rules, newRule(all, "Interruptions",
			"Spot interruptions and rebalance recommendations of all instances: they do not name the group", interruptions(d), p.queues))
	}
	rules = append(rules, newRule(all, "Stops", "Instances of the account that stop or terminate: they do not name the group", stops, p.queues))
	if d.Drain.OnScheduledChange {
		rules = append(rules, newRule(all, "ScheduledChanges", "Changes that EC2 has scheduled for instances of the account",
			scheduledChanges, p.queues))
	}
	for _, rule := range rules {
		allowRule(rule, p.queues.events, p.queues.dlq)
	}
	return all
}

// newRule sends events that match a pattern to the queue, and events that cannot be delivered to the dead-letter queue.
func newRule(scope constructs.Construct, id, description string, pattern map[string]any, q queues) awsevents.CfnRule {
	return awsevents.NewCfnRule(scope, jsii.String(id), &awsevents.CfnRuleProps{
		Description:  jsii.String(description),
		EventPattern: pattern,
		Targets: []any{&awsevents.CfnRule_TargetProperty{
			Id: jsii.String("Queue"), Arn: q.events.QueueArn(),
			DeadLetterConfig: &awsevents.CfnRule_DeadLetterConfigProperty{Arn: q.dlq.QueueArn()},
			RetryPolicy: &awsevents.CfnRule_RetryPolicyProperty{
				MaximumEventAgeInSeconds: jsii.Number(deliveryTimeout.Seconds()), MaximumRetryAttempts: jsii.Number(deliveryAttempts),
			},
		}},
	})
}

// allowRule allows one rule to send to queues.
func allowRule(rule awsevents.CfnRule, queues ...awssqs.Queue) {
	for _, queue := range queues {
		queue.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions: jsii.Strings("sqs:SendMessage"), Resources: &[]*string{queue.QueueArn()},
			Principals: &[]awsiam.IPrincipal{eventBridge()},
			Conditions: &map[string]any{"ArnEquals": map[string]any{"aws:SourceArn": rule.AttrArn()}},
		}))
	}
}

func eventBridge() awsiam.IPrincipal {
	return awsiam.NewServicePrincipal(jsii.String("events.amazonaws.com"), nil)
}

// maxPattern is the longest pattern that names groups. EventBridge allows 2,048 characters, unless the account has a higher quota
// (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html). The rest is for how CloudFormation writes it. A longer pattern
// fails the deployment, and a shorter limit invokes the function for the groups of others that have the same hook.
const maxPattern = 2000

// terminations matches the lifecycle actions of our hook. The events name the group but not its tags: with groups by tag, all groups
// match, and the function asks AWS for the tags. All groups match too if their names are too long for a pattern.
func terminations(d deployment) map[string]any {
	detail := map[string]any{"LifecycleHookName": []any{d.Lifecycle.Hook}}
	pattern := map[string]any{
		"source":      []any{"aws.autoscaling"},
		"detail-type": []any{"EC2 Instance-terminate Lifecycle Action"},
		"detail":      detail,
	}
	if len(d.Groups.Tags) == 0 {
		var groups []any
		for _, glob := range d.Groups.Names {
			groups = append(groups, eventPattern(glob))
		}
		detail["AutoScalingGroupName"] = groups
	}
	if text, err := json.Marshal(pattern); err != nil || len(text) > maxPattern {
		delete(detail, "AutoScalingGroupName")
	}
	return pattern
}

// eventPattern returns a name or a glob in the syntax of EventBridge
// (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html). EventBridge has asterisks, but
// neither question marks nor sets. Of such a glob it matches the prefix. The function then matches the whole glob.
func eventPattern(glob string) any {
	special := strings.IndexAny(glob, `*?[\`)
	switch {
	case special < 0:
		return glob
	case special == 0:
		return map[string]any{"exists": true}
	case strings.ContainsAny(glob, `?[\`), strings.Contains(glob, "**"), special == len(glob)-1:
		return map[string]any{"prefix": glob[:special]}
	}
	return map[string]any{"wildcard": glob}
}

func interruptions(d deployment) map[string]any {
	return map[string]any{"source": []any{"aws.ec2"}, "detail-type": interruptionTypes(d)}
}

// interruptionTypes returns the EC2 events that start a drain.
func interruptionTypes(d deployment) (types []any) {
	if d.Drain.OnSpotInterruption {
		types = append(types, "EC2 Spot Instance Interruption Warning")
	}
	if d.Drain.OnRebalanceRecommendation {
		types = append(types, "EC2 Instance Rebalance Recommendation")
	}
	return types
}

// stops matches each instance of the account that stops or terminates. The state stopped always follows stopping: it would count a stop
// twice (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html).
var stops = map[string]any{
	"source":      []any{"aws.ec2"},
	"detail-type": []any{"EC2 Instance State-change Notification"},
	"detail":      map[string]any{"state": []any{"shutting-down", "stopping"}},
}

// scheduledChanges matches events of AWS Health about changes of EC2
// (https://docs.aws.amazon.com/health/latest/ug/aws-health-events-eventbridge-schema.html).
var scheduledChanges = map[string]any{
	"source":      []any{"aws.health"},
	"detail-type": []any{"AWS Health Event"},
	"detail":      map[string]any{"service": []any{"EC2"}, "eventTypeCategory": []any{"scheduledChange"}},
}

// newSweep runs the sweep each minute. A failed one is not retried, because the next one does the same.
func newSweep(stack awscdk.Stack, p parts) constructs.IDependable {
	return newSchedule(stack, p, "Sweep", "Sends heartbeats for instances that wait for a drain, and resends lost events",
		sweepInterval, `{"action":"sweep"}`)
}

// newCheck checks the path of a drain each hour, short of an eviction.
func newCheck(stack awscdk.Stack, p parts) constructs.IDependable {
	return newSchedule(stack, p, "Check", "Checks groups, hooks, cluster and permissions, with an eviction as a dry run",
		checkInterval, `{"action":"check"}`)
}

// newSchedule invokes the function with the input at each interval.
func newSchedule(stack awscdk.Stack, p parts, id, description string, interval time.Duration, input string) constructs.IDependable {
	rule := awsevents.NewCfnRule(stack, jsii.String(id), &awsevents.CfnRuleProps{
		Description:        jsii.String(description),
		ScheduleExpression: awsevents.Schedule_Rate(duration(interval)).ExpressionString(),
		Targets: []any{&awsevents.CfnRule_TargetProperty{
			Id: jsii.String("Function"), Arn: p.function.live.FunctionArn(), Input: jsii.String(input),
			RetryPolicy: &awsevents.CfnRule_RetryPolicyProperty{
				MaximumEventAgeInSeconds: jsii.Number(asyncAge.Seconds()), MaximumRetryAttempts: jsii.Number(0),
			},
		}},
	})
	p.function.live.AddPermission(jsii.String(id), &awslambda.Permission{
		Principal: eventBridge(), SourceArn: rule.AttrArn(),
	})
	return rule
}
