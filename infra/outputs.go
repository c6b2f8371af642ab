package main

import (
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// output is an output of the stack: a command to run, or a resource to look for. Without a value it is left out.
type output struct {
	name, description string
	value             *string
}

func addOutputs(stack awscdk.Stack, d deployment, p parts, m monitoring) {
	all := constructs.NewConstruct(stack, jsii.String("Outputs"))
	for _, o := range outputs(d, p, m) {
		if o.value == nil {
			continue
		}
		created := awscdk.NewCfnOutput(all, jsii.String(o.name), &awscdk.CfnOutputProps{
			Value: o.value, Description: jsii.String(o.description),
		})
		created.OverrideLogicalId(jsii.String(o.name))
	}
}

func outputs(d deployment, p parts, m monitoring) []output {
	return []output{
		{"Function", "Function and alias for manual invocations", jsii.String(d.StackName() + ":" + liveAlias)},
		{"Role", "Execution role ARN", p.role.RoleArn()},
		{"Rbac", "Run once per cluster: grants the function its permissions in Kubernetes", jsii.String("kubectl apply -f infra/rbac.yaml")},
		{"AwsAuth", "Add this to mapRoles in the ConfigMap aws-auth of namespace kube-system", awsAuth(d, p)},
		{"HooksByHand", "Run this for each group that a glob matches: the stack adds no hook to those", hooksByHand(d)},
		{"Endpoints", "VPC endpoints that subnets without a route to the internet need", endpointList(d)},
		{"Stop", "Stops the function without a deployment. Meanwhile the alarm sweep-missing fires, and queue-backlog may fire. " +
			"infra/README.md says what happens to waiting instances", stop(d)},
		{"Resume", "Restores the concurrency after Stop", resume(d)},
		{"Rollback", "Points the alias to an earlier version (aws lambda list-versions-by-function lists them)", rollback(d)},
		{"DeadLetterQueue", "Dead-letter queue URL", p.queues.dlq.QueueUrl()},
		{"Alarms", alarmsDescription(d), m.topic.TopicArn()},
		{"Reports", "Bucket of archived reports", p.reportBucket()},
	}
}

// alarmsDescription says whether people still have to subscribe to the topic.
func alarmsDescription(d deployment) string {
	if d.Stack.AlarmTopic != "" {
		return "SNS topic of the alarms, from stack.alarmTopic"
	}
	return "SNS topic of the alarms. It has no subscriber: subscribe to it, or no alarm reaches anyone"
}

// awsAuth returns the entry that lets the role in without an access entry.
func awsAuth(d deployment, p parts) *string {
	if d.Stack.AccessEntry {
		return nil
	}
	return awscdk.Fn_Join(jsii.String(""), &[]*string{
		jsii.String("- {rolearn: "), p.role.RoleArn(),
		jsii.String(", username: '" + kubernetesGroup + ":{{SessionName}}', groups: [" + kubernetesGroup + "]}"),
	})
}

// hooksByHand returns the command that adds the hook to one group.
func hooksByHand(d deployment) *string {
	if len(d.Groups.Exact()) == len(d.Groups) {
		return nil
	}
	return jsii.String(fmt.Sprintf("aws autoscaling put-lifecycle-hook --auto-scaling-group-name GROUP --lifecycle-hook-name %s "+
		"--lifecycle-transition %s --heartbeat-timeout %.0f --default-result %s",
		d.Lifecycle.Hook, terminating, heartbeatTimeout(d.Drain.MaxDuration).Seconds(), d.Lifecycle.OnFailure))
}

func endpointList(d deployment) *string {
	if d.Stack.VPC == nil {
		return nil
	}
	return jsii.String(strings.Join(endpoints(d), " "))
}

func stop(d deployment) *string {
	return concurrency(d, "put-function-concurrency", " --reserved-concurrent-executions 0")
}

func resume(d deployment) *string {
	if n := reserved(d); n != nil {
		return concurrency(d, "put-function-concurrency", fmt.Sprintf(" --reserved-concurrent-executions %.0f", *n))
	}
	return concurrency(d, "delete-function-concurrency", "")
}

func concurrency(d deployment, command, rest string) *string {
	return jsii.String("aws lambda " + command + " --function-name " + d.StackName() + rest)
}

func rollback(d deployment) *string {
	return jsii.String("aws lambda update-alias --function-name " + d.StackName() +
		" --name " + liveAlias + " --function-version VERSION")
}
