package config

import (
	"fmt"
	"time"
)

const (
	// minHeartbeatTimeout is how long an instance waits without a heartbeat. It delays terminations, to no use, while the function
	// is stopped or broken. It must exceed the visibility timeout of the queue, 15 minutes: if an invocation dies before its first
	// action, its message must return while the instance still waits, even without a sweep. The rest covers cold starts and slow
	// minutes of AWS. The function sends a heartbeat every third of it.
	minHeartbeatTimeout = 20 * time.Minute
	// MaxHeartbeats is for how many heartbeat timeouts an instance can wait, and MaxWait for how long at most:
	// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutLifecycleHook.html.
	MaxHeartbeats = 100
	MaxWait       = 48 * time.Hour
	// hookMargin is for how much longer than a drain an instance can wait. The alarm longest-wait must fire before Auto Scaling ends the wait, and a
	// person needs some minutes to save what is only on that node.
	hookMargin = 15 * time.Minute
)

// HeartbeatTimeout returns the heartbeat timeout of our hooks: 100 of them cover the longest drain and hookMargin, as far as MaxWait allows.
func (c Config) HeartbeatTimeout() time.Duration {
	needed := min(c.Drain.MaxDuration+hookMargin, MaxWait) / MaxHeartbeats
	return max(minHeartbeatTimeout, needed.Truncate(time.Second)+time.Second)
}

// LongestWait returns for how long an instance can wait on our hook.
func (c Config) LongestWait() time.Duration { return min(MaxHeartbeats*c.HeartbeatTimeout(), MaxWait) }

// PutHookCommand returns the command that puts our hook on a group, which is quoted for a shell where that is needed. Like a hook that the
// sweep puts, it has the name of the stack: such a hook is removed with the stack.
func (c Config) PutHookCommand(group string) string {
	metadata := ""
	if c.Lifecycle.ManageHooks {
		metadata = fmt.Sprintf(` --notification-metadata '{"managedBy":"%s"}'`, c.StackName())
	}
	return fmt.Sprintf("aws autoscaling put-lifecycle-hook --auto-scaling-group-name %s --lifecycle-hook-name %s --lifecycle-transition "+
		"autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout %.0f --default-result %s%s",
		group, c.Lifecycle.Hook, c.HeartbeatTimeout().Seconds(), c.Lifecycle.OnFailure, metadata)
}
