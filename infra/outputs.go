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
		{"Function", "Function and alias for manual invocations", p.function.live.FunctionArn()},
		{"Role", "Execution role ARN", p.role.RoleArn()},
		{"Rbac", "Run once per cluster: grants the function its permissions in Kubernetes", jsii.String("kubectl apply -f infra/rbac.yaml")},
		{"AwsAuth", "Add this to mapRoles in the ConfigMap aws-auth of namespace kube-system", awsAuth(d, p)},
		{"HooksByHand", "Puts the hook on a group that has none: one that a glob or a tag matches, or whose hook was deleted", hooksByHand(d)},
		{"Endpoints", "VPC endpoints that subnets without a route to the internet need", endpointList(d)},
		{"Stop", "Stops the function without a deployment. Meanwhile the alarm sweep-stopped fires, check-stopped after three hours, and queue-backlog when events wait. " +
			"infra/README.md says what happens to waiting instances", stop(d, p)},
		{"Resume", "Restores after Stop", resume(d, p)},
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

// hooksByHand returns the command that adds the hook to one group. A group of any kind can need it: CloudFormation does not notice that a
// hook was deleted.
func hooksByHand(d deployment) *string { return jsii.String(d.PutHookCommand("GROUP")) }

func endpointList(d deployment) *string {
	if d.Stack.VPC == nil {
		return nil
	}
	return jsii.String(strings.Join(endpoints(d), " "))
}

// stop returns the command that stops the function. Concurrency zero stops sweeps and manual actions too. It is not enough:
// Lambda's pollers would go on, and hide each message that they cannot deliver for the visibility timeout
// (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html). Then no alarm sees that events wait.
func stop(d deployment, p parts) *string {
	return commands(p, "aws lambda put-function-concurrency --function-name "+d.StackName()+" --reserved-concurrent-executions 0",
		"--no-enabled")
}

func resume(d deployment, p parts) *string {
	if n := reserved(d); n != nil {
		return commands(p, fmt.Sprintf("aws lambda put-function-concurrency --function-name %s --reserved-concurrent-executions %.0f",
			d.StackName(), *n), "--enabled")
	}
	return commands(p, "aws lambda delete-function-concurrency --function-name "+d.StackName(), "--enabled")
}

// commands returns a command and the one that switches the event source mapping.
func commands(p parts, first, enabled string) *string {
	return awscdk.Fn_Join(jsii.String(""), &[]*string{
		jsii.String(first + " && aws lambda update-event-source-mapping " + enabled + " --uuid "), p.mapping.EventSourceMappingId(),
	})
}

func rollback(d deployment) *string {
	return jsii.String("aws lambda update-alias --function-name " + d.StackName() +
		" --name " + liveAlias + " --function-version VERSION")
}
