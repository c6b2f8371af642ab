package main

import (
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// output is something that is told when the stack is there, because somebody must do it or look for it.
type output struct {
	name, means string
	value       *string
}

func tell(stack awscdk.Stack, d deployment, p parts, w watch) {
	all := constructs.NewConstruct(stack, jsii.String("Outputs"))
	for _, o := range outputs(d, p, w) {
		if o.value == nil {
			continue
		}
		told := awscdk.NewCfnOutput(all, jsii.String(o.name), &awscdk.CfnOutputProps{Value: o.value, Description: jsii.String(o.means)})
		told.OverrideLogicalId(jsii.String(o.name))
	}
}

func outputs(d deployment, p parts, w watch) []output {
	return []output{
		{"Function", "What to invoke by hand", jsii.String(d.StackName() + ":" + liveAlias)},
		{"Role", "Who the function is", p.role.RoleArn()},
		{"Rbac", "Once for each cluster: what the function may do there", jsii.String("kubectl apply -f infra/rbac.yaml")},
		{"AwsAuth", "To be added to mapRoles in the ConfigMap aws-auth of kube-system, which still lists who may enter", awsAuth(d, p)},
		{"HooksByHand", "Groups that are named by a glob have no hook yet: run this for each", hooksByHand(d)},
		{"Endpoints", "VPC endpoints that are needed where the subnets have no other way out", endpointList(d)},
		{"Stop", "Stops the function without a deployment; README says what becomes of instances that wait", stop(d)},
		{"Resume", "Takes it back", resume(d)},
		{"Rollback", "Points the alias to an earlier version (aws lambda list-versions-by-function tells them)", rollback(d)},
		{"DeadLetters", "Where events are that could not be processed", p.queues.dead.QueueUrl()},
		{"Alarms", "The topic that alarms go to", w.topic.TopicArn()},
		{"Reports", "The bucket that reports are kept in", p.reportBucket()},
	}
}

// awsAuth is what `kubectl edit` is to add where there is no access entry.
func awsAuth(d deployment, p parts) *string {
	if d.Stack.AccessEntry {
		return nil
	}
	return awscdk.Fn_Join(jsii.String(""), &[]*string{
		jsii.String("- {rolearn: "), p.role.RoleArn(),
		jsii.String(", username: '" + kubernetesGroup + ":{{SessionName}}', groups: [" + kubernetesGroup + "]}"),
	})
}

func hooksByHand(d deployment) *string {
	if len(d.Groups.Exact()) == len(d.Groups) {
		return nil
	}
	return jsii.String(fmt.Sprintf("aws autoscaling put-lifecycle-hook --auto-scaling-group-name GROUP --lifecycle-hook-name %s "+
		"--lifecycle-transition %s --heartbeat-timeout %.0f --default-result %s",
		d.Lifecycle.Hook, terminating, heartbeat(d.Drain.MaxDuration).Seconds(), d.Lifecycle.OnFailure))
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
