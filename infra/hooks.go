package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// terminating is the lifecycle transition of our hooks.
const terminating = "autoscaling:EC2_INSTANCE_TERMINATING"

// newHooks adds the hook to each group that quiesce.yaml names without a glob. The groups exist already. The hooks are created
// after all that handles their events, and deleted before it. Deleting a hook completes the actions that wait on it
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DeleteLifecycleHook.html).
func newHooks(stack awscdk.Stack, d deployment, handlers []constructs.IDependable) {
	all := constructs.NewConstruct(stack, jsii.String("Hooks"))
	for _, group := range d.Groups.Names.Exact() {
		hook := awsautoscaling.NewCfnLifecycleHook(all, jsii.String(group), &awsautoscaling.CfnLifecycleHookProps{
			AutoScalingGroupName: jsii.String(group),
			LifecycleHookName:    jsii.String(d.Lifecycle.Hook),
			LifecycleTransition:  jsii.String(terminating),
			HeartbeatTimeout:     jsii.Number(d.HeartbeatTimeout().Seconds()),
			DefaultResult:        jsii.String(d.Lifecycle.OnFailure), // without a heartbeat, the drain counts as failed
		})
		hook.Node().AddDependency(handlers...)
	}
}
