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
	// deliverFor is how long EventBridge tries to put an event into the queue. The sweep makes up for a lost one after two minutes;
	// after an hour a person should know.
	deliverFor = time.Hour
	// deliveries is EventBridge's maximum, so that deliverFor decides.
	deliveries = 185
	// sweepEvery is as often as a rule can: an instance whose event was lost waits for two of them.
	sweepEvery = time.Minute
)

// newMapping gives the function one message at a time: a drain may take all of an invocation's time, and one that fails must not
// take others back into the queue with it.
func newMapping(d deployment, p parts) constructs.IDependable {
	return p.function.live.AddEventSourceMapping(jsii.String("Events"), &awslambda.EventSourceMappingOptions{
		EventSourceArn:          p.queues.work.QueueArn(),
		BatchSize:               jsii.Number(1),
		ReportBatchItemFailures: jsii.Bool(true),
		MaxConcurrency:          jsii.Number(d.Stack.MaxConcurrency),
	})
}

// newEvents brings what Auto Scaling and EC2 say into the queue.
func newEvents(stack awscdk.Stack, d deployment, p parts) constructs.IDependable {
	all := constructs.NewConstruct(stack, jsii.String("Notice"))
	rules := []awsevents.CfnRule{
		newRule(all, "Terminations", "Instances that wait on the hook "+d.Lifecycle.Hook, terminations(d), p.queues),
	}
	if len(noticeTypes(d)) > 0 {
		rules = append(rules, newRule(all, "Notices",
			"What EC2 says will become of instances, ours or not: their group it does not tell", notices(d), p.queues))
	}
	for _, rule := range rules {
		admit(rule, p.queues.work, p.queues.dead)
	}
	return all
}

// newRule puts what matches a pattern into the queue, and what cannot be put there among the dead letters.
func newRule(scope constructs.Construct, id, description string, pattern map[string]any, q queues) awsevents.CfnRule {
	return awsevents.NewCfnRule(scope, jsii.String(id), &awsevents.CfnRuleProps{
		Description:  jsii.String(description),
		EventPattern: pattern,
		Targets: []any{&awsevents.CfnRule_TargetProperty{
			Id: jsii.String("Queue"), Arn: q.work.QueueArn(),
			DeadLetterConfig: &awsevents.CfnRule_DeadLetterConfigProperty{Arn: q.dead.QueueArn()},
			RetryPolicy: &awsevents.CfnRule_RetryPolicyProperty{
				MaximumEventAgeInSeconds: jsii.Number(deliverFor.Seconds()), MaximumRetryAttempts: jsii.Number(deliveries),
			},
		}},
	})
}

// admit lets a rule, and no other, send to queues.
func admit(rule awsevents.CfnRule, queues ...awssqs.Queue) {
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

// eventPattern is a name or a glob as EventBridge understands it
// (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html). It knows asterisks, but
// neither question marks nor sets; of such a glob the beginning must do. The function has the last word.
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

func notices(d deployment) map[string]any {
	return map[string]any{"source": []any{"aws.ec2"}, "detail-type": noticeTypes(d)}
}

// noticeTypes are those of EC2's notices that are drained for.
func noticeTypes(d deployment) (types []any) {
	if d.Stack.SpotInterruptions {
		types = append(types, "EC2 Spot Instance Interruption Warning")
	}
	if d.Drain.OnRebalanceRecommendation {
		types = append(types, "EC2 Instance Rebalance Recommendation")
	}
	return types
}

// newSweep has the function look for instances that nobody drains. One that fails is not repeated: the next is as good.
func newSweep(stack awscdk.Stack, p parts) constructs.IDependable {
	rule := awsevents.NewCfnRule(stack, jsii.String("Sweep"), &awsevents.CfnRuleProps{
		Description:        jsii.String("Keeps instances alive that wait for their drain, and finds those whose event was lost"),
		ScheduleExpression: awsevents.Schedule_Rate(lasting(sweepEvery)).ExpressionString(),
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
