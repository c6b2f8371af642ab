package termination

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
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
)

// waitingStates are the states in which an instance waits on its termination hooks, or is about to.
var waitingStates = []string{"Terminating", "Terminating:Wait", "Warmed:Pending:Wait", "ReplacingRootVolume:Wait"}

// isWaiting reports whether the instance is terminating and not past its hooks. The zero instance, which stands for one that its group
// does not have, is not.
func (i Instance) isWaiting() bool { return slices.Contains(waitingStates, i.State) }

// verify asks whether the instance is in the group and terminating, as the event claims. Until that is verified nothing is written
// anywhere. It returns the group's instances, and a rejection: why the event is not believed.
func (j *job) verify(ctx context.Context) (instances []Instance, rejection string, err error) {
	until := time.Now().Add(maxDescriptionLag)
	for {
		instances, err = j.Groups.Instances(ctx, j.Group)
		if err != nil {
			return nil, "", err
		}
		instance := instanceOf(instances, j.InstanceID)
		if instance.isWaiting() {
			return instances, "", nil
		}
		if instance.State != inService || time.Now().After(until) {
			return instances, rejectionOf(instance, j.Termination), nil
		}
		if err := pause(ctx, verifyPace); err != nil {
			return nil, "", fmt.Errorf("verify %s: %w", j.InstanceID, err)
		}
	}
}

func rejectionOf(i Instance, t Termination) string {
	switch {
	case i.State == "":
		return fmt.Sprintf("%s is not in group %s", t.InstanceID, t.Group)
	case strings.HasSuffix(i.State, ":Proceed"):
		return fmt.Sprintf("%s is %s: already past the wait state", t.InstanceID, i.State)
	}
	return fmt.Sprintf("%s is %s, not waiting to terminate", t.InstanceID, i.State)
}

// instanceOf returns the instance of this ID. If the group does not have it, its state is empty.
func instanceOf(instances []Instance, id string) Instance {
	if i := slices.IndexFunc(instances, func(i Instance) bool { return i.ID == id }); i >= 0 {
		return instances[i]
	}
	return Instance{ID: id}
}

// terminatingPeers returns the other instances of the group that are terminating.
func terminatingPeers(instances []Instance, instanceID string) []Instance {
	return slices.DeleteFunc(slices.Clone(instances), func(i Instance) bool { return i.ID == instanceID || !i.isWaiting() })
}

// pause waits. If ctx ends first, it returns the cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
