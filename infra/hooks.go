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
	// leastHeartbeat is for how long an instance waits that nobody keeps alive: by so much are terminations late when the function is
	// stopped or broken, for nothing. It must be longer than visibility, so that a message whose invocation died before its first act
	// comes back while its instance still waits, even if no sweep runs; the rest is for cold starts and AWS's own bad minutes. The
	// function heartbeats every third of it.
	leastHeartbeat = visibility + 5*time.Minute
	// Auto Scaling lets an instance wait for a hundred heartbeats, and no longer than two days:
	// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutLifecycleHook.html.
	longestWait    = 2 * day
	mostHeartbeats = 100
	// terminating is Auto Scaling's word for the transition that hooks of ours hold up.
	terminating = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// heartbeat is the hook's timeout: such that a hundred of them are enough for the longest drain.
func heartbeat(longestDrain time.Duration) time.Duration {
	needed := min(longestDrain, longestWait) / mostHeartbeats
	return max(leastHeartbeat, needed.Truncate(time.Second)+time.Second)
}

// newHooks puts the hook on each existing group that is named exactly; the groups themselves are somebody else's. The hooks are made
// when everything is there that answers them, and are gone before anything of that goes: Auto Scaling lets waiting instances go then
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DeleteLifecycleHook.html).
func newHooks(stack awscdk.Stack, d deployment, answering []constructs.IDependable) {
	all := constructs.NewConstruct(stack, jsii.String("Hooks"))
	for _, group := range d.Groups.Exact() {
		hook := awsautoscaling.NewCfnLifecycleHook(all, jsii.String(group), &awsautoscaling.CfnLifecycleHookProps{
			AutoScalingGroupName: jsii.String(group),
			LifecycleHookName:    jsii.String(d.Lifecycle.Hook),
			LifecycleTransition:  jsii.String(terminating),
			HeartbeatTimeout:     jsii.Number(heartbeat(d.Drain.MaxDuration).Seconds()),
			DefaultResult:        jsii.String(string(d.Lifecycle.OnFailure)), // no answer is a drain that failed
		})
		hook.Node().AddDependency(answering...)
	}
}
