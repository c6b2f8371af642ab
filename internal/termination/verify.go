package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

const (
	// maxDescriptionLag is how long a description may lag behind an event before the event is rejected. Auto Scaling publishes no
	// figure. 15 s is far more than was seen, and short compared with any hook's timeout.
	maxDescriptionLag = 15 * time.Second
	// verifyPace paces the requests in that time. The whole account shares one bucket of requests.
	verifyPace = 2 * time.Second
)

// Lifecycle states, as in https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html.
const (
	inService = "InService"
	retained  = "Terminating:Retained" // its termination was abandoned; it runs until it is terminated again
	// terminated is the last state. Few descriptions have it: the group lists the instance no more.
	terminated = "Terminated"
)

// warmed is how the states of a warm pool begin
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html).
const warmed = "Warmed:"

// waitingStates are the states in which an instance waits on its termination hooks, or is about to. In those of a warm pool it may wait
// on a launch hook instead.
var waitingStates = []string{
	"Terminating", "Terminating:Wait", "ReplacingRootVolume:Wait", "Warmed:Pending:Wait", "Warmed:Terminating", "Warmed:Terminating:Wait",
}

// isWaiting reports whether the instance is terminating and not past its hooks. The zero instance, which stands for one that its group
// does not have, is not.
func (i Instance) isWaiting() bool { return slices.Contains(waitingStates, i.State) }

// outOfServiceStates are those in which an instance runs pods though it is not in service. Its termination has not begun, or was abandoned.
var outOfServiceStates = []string{"Pending:Wait", "Pending:Proceed", "EnteringStandby", "Standby", "Detaching", retained}

// isRetained reports whether the instance's termination was abandoned.
func (i Instance) isRetained() bool { return slices.Contains(retainedStates, i.State) }

// isWarm reports whether the instance is in its group's warm pool, or on its way there.
func (i Instance) isWarm() bool { return strings.HasPrefix(i.State, warmed) }

// verify asks whether the instance is in the group and terminating, as the event claims. Until that is verified nothing is written
// anywhere. It returns the instance, and a rejection: why the event is not believed. What an event claims can be true a moment later, so
// Auto Scaling is asked again for a while.
func (j *job) verify(ctx context.Context) (instance Instance, rejection string, err error) {
	until := time.Now().Add(maxDescriptionLag)
	for {
		instance, err = j.Groups.Instance(ctx, j.InstanceID)
		if err != nil {
			return Instance{}, "", err
		}
		if !instance.isWaiting() {
			j.received = time.Now() // its action begins later; a receipt before that is of an earlier action's event
		}
		rejection, later, err := j.reject(ctx, instance)
		if err != nil || rejection == "" || !later || time.Now().After(until) {
			return instance, rejection, err
		}
		if err := drain.Sleep(ctx, verifyPace); err != nil {
			return Instance{}, "", fmt.Errorf("verify %s: %w", j.InstanceID, err)
		}
		j.group = nil // it may have other peers by now
	}
}

// reject returns why the event is not believed of an instance in this state; empty: it is. Later reports whether it may be believed in
// a moment.
func (j *job) reject(ctx context.Context, i Instance) (rejection string, later bool, err error) {
	switch {
	case i.Group == "" || i.State == "":
		return fmt.Sprintf("%s is not in group %s", j.InstanceID, j.Group), false, nil
	case i.Group != j.Group:
		return fmt.Sprintf("%s is in group %s, not %s", j.InstanceID, i.Group, j.Group), false, nil
	case strings.HasSuffix(i.State, ":Proceed"):
		return fmt.Sprintf("%s is %s: already past the wait state", j.InstanceID, i.State), false, nil
	case !i.isWaiting():
		later := i.State != terminated // the description may be that of a moment ago, in any state from which instances terminate
		return fmt.Sprintf("%s is %s, not waiting to terminate", j.InstanceID, i.State), later, nil
	case !i.isWarm():
		return "", false, nil
	}
	switch launches, err := j.isForLaunches(ctx); {
	case err != nil:
		return "", false, err
	case launches:
		return fmt.Sprintf("hook %s of group %s is for launches", j.Hook, j.Group), false, nil
	}
	err = j.heartbeater().send(ctx, heartbeatTimeout)
	if errors.Is(err, ErrNoActiveAction) {
		return fmt.Sprintf("%s is %s, and does not wait on hook %s", j.InstanceID, i.State, j.Hook), true, nil
	}
	return "", false, err
}

// isForLaunches reports whether our hook's name is that of a hook for launches. An instance of a warm pool may wait on it, and Auto Scaling
// would accept our heartbeat.
func (j *job) isForLaunches(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	hook, err := j.Hooks.Describe(ctx, j.Group, j.Hook)
	if errors.Is(err, ErrNoHook) { // then the heartbeat is refused
		return false, nil
	}
	return hook.Launching, err
}

// terminatingPeers returns the other instances of the group that are terminating.
func terminatingPeers(instances []Instance, instanceID string) []Instance {
	return slices.DeleteFunc(slices.Clone(instances), func(i Instance) bool { return i.ID == instanceID || !i.isWaiting() })
}
