package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

const (
	day = 24 * time.Hour
	// minHeartbeatTimeout is how long an instance waits without a heartbeat. It delays terminations, to no use, while the function
	// is stopped or broken. It must exceed visibility: if an invocation dies before its first action, its message must return
	// while the instance still waits, even without a sweep. The rest covers cold starts and slow minutes of AWS. The function
	// sends a heartbeat every third of it.
	minHeartbeatTimeout = visibility + 5*time.Minute
	// An instance can wait for 100 heartbeat timeouts, and for at most two days:
	// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutLifecycleHook.html.
	maxWait       = 2 * day
	maxHeartbeats = 100
	// terminating is the lifecycle transition of our hooks.
	terminating = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// heartbeatTimeout returns the heartbeat timeout of the hook: 100 of them cover the longest drain.
func heartbeatTimeout(maxDuration time.Duration) time.Duration {
	needed := min(maxDuration, maxWait) / maxHeartbeats
	return max(minHeartbeatTimeout, needed.Truncate(time.Second)+time.Second)
}

// newHooks adds the hook to each group that quiesce.yaml names without a glob. The groups exist already. The hooks are created
// after all that handles their events, and deleted before it. Deleting a hook completes the actions that wait on it
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DeleteLifecycleHook.html).
func newHooks(stack awscdk.Stack, d deployment, handlers []constructs.IDependable) {
	all := constructs.NewConstruct(stack, jsii.String("Hooks"))
	for _, group := range d.Groups.Exact() {
		hook := awsautoscaling.NewCfnLifecycleHook(all, jsii.String(group), &awsautoscaling.CfnLifecycleHookProps{
			AutoScalingGroupName: jsii.String(group),
			LifecycleHookName:    jsii.String(d.Lifecycle.Hook),
			LifecycleTransition:  jsii.String(terminating),
			HeartbeatTimeout:     jsii.Number(heartbeatTimeout(d.Drain.MaxDuration).Seconds()),
			DefaultResult:        jsii.String(string(d.Lifecycle.OnFailure)), // without a heartbeat, the drain counts as failed
		})
		hook.Node().AddDependency(handlers...)
	}
}
