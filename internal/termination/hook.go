package termination

import (
	"cmp"
	"context"
	"time"

	"quiesce/internal/drain"
)

// Auto Scaling's own bounds of a hook (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html), for
// descriptions that lack them.
const (
	maxHeartbeats       = 100
	maxHookTime         = 48 * time.Hour
	minHeartbeatTimeout = 30 * time.Second
)

const (
	// activityTries is how often the activities are asked for. A throttled account mostly answers the second time; without permission the
	// first eviction waits two seconds.
	activityTries = 3
	// activityRetry paces that.
	activityRetry = time.Second
)

// clockTolerance is by how much the time of an event may differ from the start of its action without a word: clocks and rounding. One that
// is earlier by more is of an earlier action. With less, an event that waited in the queue would lose its true time to a clock.
const clockTolerance = time.Minute

// limit returns after how long Auto Scaling ends the action, heartbeats or not; zero: unknown.
func (h Hook) limit() time.Duration {
	return cmp.Or(h.GlobalTimeout, min(maxHeartbeats*h.HeartbeatTimeout, maxHookTime))
}

// interval returns the time from one heartbeat for an instance to the next. It is up to a tenth shorter than it could be, so that nodes
// that terminate together do not heartbeat together.
func (h Hook) interval(instanceID string) time.Duration {
	longest := cmp.Or(h.HeartbeatTimeout, minHeartbeatTimeout) / heartbeatsPerTimeout
	return longest - drain.Jitter(instanceID, longest/10)
}

// describeHook returns the hook's settings. Without an answer the shortest timeout is assumed: heartbeats then come often enough for any
// hook.
func (j *job) describeHook(ctx context.Context) Hook { return j.askHook(ctx)() }

// askHook asks for the hook's settings beside what follows.
func (j *job) askHook(ctx context.Context) (await func() Hook) {
	log := j.log
	return beside(func() Hook {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		hook, err := j.Hooks.Describe(ctx, j.Group, j.Hook)
		if err != nil && !isInVain(ctx) {
			log.Warn("failed to describe lifecycle hook", "error", err.Error())
		}
		return hook
	})
}

// askActivities asks when the group's activities began, beside what follows, and returns what waits for the answer. The answer is when
// the activity of our instance began; zero: unknown.
func (j *job) askActivities(ctx context.Context) (await func() time.Time) {
	log := j.log
	return beside(func() time.Time {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		all, err := j.Groups.ActivityStarts(ctx, j.Group)
		for try := 1; err != nil && try < activityTries && drain.Sleep(ctx, activityRetry) == nil; try++ {
			all, err = j.Groups.ActivityStarts(ctx, j.Group)
		}
		if err != nil && !isInVain(ctx) {
			log.Warn("DescribeScalingActivities failed, the first receipt of the event counts as the start", "error", err.Error())
		}
		return all[j.InstanceID]
	})
}

// learnClock sets when the termination began, and the deadline that follows.
func (j *job) learnClock(activity func() time.Time, hook Hook) {
	now := time.Now()
	known := startOf(j.Began, activity(), j.firstReceipts(now), now)
	if claimed := j.Began; !claimed.IsZero() && claimed.Sub(known.began).Abs() > clockTolerance {
		j.log.Warn("event's time not used", "event", claimed, "began", known.began)
	}
	j.Began = known.began
	j.clock.setForHook(known, hook)
}

// firstReceipts returns when the event was received first, as the Lease says, and this message. The Lease may still say it of an earlier
// action, and so may a message that is delivered again. With a Lease now is the last of them: once the node is closed, the Lease says so.
func (j *job) firstReceipts(now time.Time) []time.Time {
	received := cmp.Or(j.received, now)
	if j.lease == nil {
		return []time.Time{received}
	}
	return []time.Time{j.notBeforeClosed(cmp.Or(j.lease.FirstReceived(), received)), received, now}
}

// notBeforeClosed returns the first receipt of the event, but not a time before the termination for which an earlier invocation closed
// the node. A receipt before that is of an old event, of an earlier action.
func (j *job) notBeforeClosed(received time.Time) time.Time {
	for _, n := range j.lease.Closed() {
		if n.Hook == j.Hook && n.Began.After(received) {
			received = n.Began
		}
	}
	return received
}

// startOf returns what is known of when an instance began to wait. The activity, whose start Auto Scaling knows, is no later than the wait:
// behind a load balancer connections drain in between, for up to an hour. So the time that the event claims counts between the activity and
// the first receipt. Otherwise the first receipt counts, and the activity only bounds it. None of them is in the future, and no event is
// received before its activity begins: then it is another action's, and the next receipt counts
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html).
func startOf(claimed, activity time.Time, receipts []time.Time, now time.Time) start {
	if activity.After(now) {
		activity = now
	}
	received := receipts[0]
	for _, next := range receipts[1:] {
		if received.Before(activity) {
			received = next
		}
	}
	if received.After(now) {
		received = now
	}
	switch {
	case activity.IsZero():
		return start{received, received, received}
	case received.Before(activity):
		return start{activity, activity, activity}
	case claimed.Before(activity.Add(-clockTolerance)), claimed.After(received):
		return start{received, received, activity}
	case claimed.Before(activity):
		claimed = activity
	}
	return start{claimed, received, claimed}
}
