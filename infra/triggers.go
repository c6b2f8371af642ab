package main

import (
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
)

// newMapping invokes the function with one message at a time. A drain may take a whole invocation, and a failed one must not
// return other messages to the queue.
func newMapping(d deployment, p parts) constructs.IDependable {
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

func terminations(d deployment) map[string]any {
	var groups []any
	for _, glob := range d.Groups {
		groups = append(groups, eventPattern(glob))
	}
	return map[string]any{
		"source":      []any{"aws.autoscaling"},
		"detail-type": []any{"EC2 Instance-terminate Lifecycle Action"},
		"detail":      map[string]any{"AutoScalingGroupName": groups, "LifecycleHookName": []any{d.Lifecycle.Hook}},
	}
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

// newSweep runs the sweep each minute. A failed one is not retried, because the next one does the same.
func newSweep(stack awscdk.Stack, p parts) constructs.IDependable {
	rule := awsevents.NewCfnRule(stack, jsii.String("Sweep"), &awsevents.CfnRuleProps{
		Description:        jsii.String("Sends heartbeats for instances that wait for a drain, and resends lost events"),
		ScheduleExpression: awsevents.Schedule_Rate(duration(sweepInterval)).ExpressionString(),
		Targets: []any{&awsevents.CfnRule_TargetProperty{
			Id: jsii.String("Function"), Arn: p.function.live.FunctionArn(), Input: jsii.String(`{"action":"sweep"}`),
			RetryPolicy: &awsevents.CfnRule_RetryPolicyProperty{
				MaximumEventAgeInSeconds: jsii.Number(asyncAge.Seconds()), MaximumRetryAttempts: jsii.Number(0),
			},
		}},
	})
	p.function.live.AddPermission(jsii.String("Sweep"), &awslambda.Permission{
		Principal: eventBridge(), SourceArn: rule.AttrArn(),
	})
	return rule
}
