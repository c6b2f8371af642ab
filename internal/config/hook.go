package config

import "time"

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
)

// HeartbeatTimeout returns the heartbeat timeout of our hooks: 100 of them cover the longest drain.
func (c Config) HeartbeatTimeout() time.Duration {
	needed := min(c.Drain.MaxDuration, MaxWait) / MaxHeartbeats
	return max(minHeartbeatTimeout, needed.Truncate(time.Second)+time.Second)
}
