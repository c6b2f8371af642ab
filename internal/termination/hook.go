package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

// oldEventAge is the age from which an event is not taken for one of the present action just because it says so. Younger events need
// no look: an instance cannot return to service and be terminated again that fast.
const oldEventAge = 2 * time.Minute

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

// loadHook describes the hook, and makes sure that the termination is the present action's.
func (j *job) loadHook(ctx context.Context) (Hook, error) {
	hook, err := j.Hooks.Describe(ctx, j.Group, j.Hook)
	if err != nil {
		return Hook{}, err
	}
	if j.Token != "" && time.Since(j.Began) > oldEventAge {
		if err := j.refreshAction(ctx); err != nil {
			return Hook{}, fmt.Errorf("find out whether the event is of the present action: %w", err)
		}
	}
	return hook, nil
}

// refreshAction finds out whether an old event is of an action that is over while the instance is in another one. For example, the
// instance was retained and is terminated again. The drain is the same then, but not the token, nor the clock. Without an answer
// nothing begins: under a clock that has run out long ago, pods would be forced that have half an hour.
func (j *job) refreshAction(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	if err := j.Hooks.Heartbeat(ctx, j.Termination); !errors.Is(err, ErrNoActiveAction) {
		return err
	}
	present := j.Termination
	present.Token = ""
	if err := j.Hooks.Heartbeat(ctx, present); errors.Is(err, ErrNoActiveAction) {
		return nil // no other action is active
	} else if err != nil {
		return err
	}
	var err error
	if present.Began, err = j.presentActionBegan(ctx); err != nil {
		return err
	}
	j.log.Warn("stale event: using the current lifecycle action", "event", j.Began, "began", present.Began)
	j.Termination = present
	return nil
}

// presentActionBegan returns when the present action began. If Auto Scaling names no activity of the instance, it is a guess, and the
// same in each invocation.
func (j *job) presentActionBegan(ctx context.Context) (time.Time, error) {
	began, err := j.Groups.ActivityStarts(ctx, j.Group)
	if at, known := began[j.InstanceID]; known || err != nil {
		return at, err
	}
	return cmp.Or(j.seen, time.Now()), nil
}
