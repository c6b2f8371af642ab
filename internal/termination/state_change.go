package termination

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

// spotReasons are EC2's codes of an instance that EC2 has reclaimed. No hook can hold it. Its interruption has an event of its own
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html).
var spotReasons = []string{"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}

// maxStopTries is how often a stop is delivered whose check fails. It takes a minute or two, after which a throttled account mostly answers.
// With less, a stop goes unreported for a bad minute. With more, stops of the whole account would fill the queue that terminations need.
const maxStopTries = 5

// reportStop reports an instance of our groups that stops while Auto Scaling does not know of it, or while its drain runs. It is too late
// to drain: only a person can find out who stopped it. A termination past our hook, and an instance of others, costs one request. A check that
// fails is given up after maxStopTries: nothing depends on it.
func (h *Handler) reportStop(ctx context.Context, record Record) (Report, error) {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	j := h.newJob(Termination{InstanceID: record.Claim.InstanceIDs[0], Trigger: StateChange})
	err := j.checkStop(ctx)
	if err != nil && record.Receives >= maxStopTries {
		j.log.Warn("failed to check a stop, giving up", "error", err.Error(), "receives", record.Receives)
		err = nil
	}
	j.report.FinishedAt = time.Now()
	return j.report, err
}

// checkStop asks Auto Scaling and EC2 whether the instance stopped without our hook. Descriptions lag behind events, and an instance whose
// drain has just ended looks like one that still waits: so both are asked again for a while.
func (j *job) checkStop(ctx context.Context) error {
	until := time.Now().Add(maxDescriptionLag)
	for {
		instance, err := j.findGroup(ctx)
		if err != nil {
			return j.failed(err)
		}
		owned, err := j.isOurs(ctx)
		if err != nil {
			return j.failed(err)
		}
		if quiet := j.whyInOrder(instance, owned); quiet != "" {
			j.report.silent = true
			j.end(StatusSkipped, quiet)
			return nil
		}
		known, err := j.Groups.EC2Instances(ctx, j.InstanceID)
		if err != nil {
			return j.failed(err)
		}
		if time.Now().After(until) {
			j.endStop(instance, known[j.InstanceID])
			return nil
		}
		if err := drain.Sleep(ctx, verifyPace); err != nil {
			return j.failed(fmt.Errorf("check the state of %s: %w", j.InstanceID, err))
		}
	}
}

// whyInOrder returns why the instance's stop needs no report; empty: it needs one. Instances of a warm pool stop and start as the
// group wants. One that is being launched has no pods yet.
func (j *job) whyInOrder(i Instance, owned bool) string {
	switch {
	case i.Group == "" || !owned:
		return fmt.Sprintf("%s: the group of %s is not managed by quiesce", j.Trigger, j.InstanceID)
	case i.isWarm() || strings.HasPrefix(i.State, "Pending") || strings.HasSuffix(i.State, ":Proceed"):
		return fmt.Sprintf("%s: %s is %s", j.Trigger, j.InstanceID, i.State)
	}
	return ""
}

// endStop ends with what Auto Scaling and EC2 have said to the last.
func (j *job) endStop(i Instance, known EC2Instance) {
	switch {
	case !known.Stopped:
		j.end(StatusRejected, fmt.Sprintf("%s: EC2 does not confirm it of %s", j.Trigger, j.InstanceID))
	case slices.Contains(spotReasons, known.StopReason):
		j.end(StatusSkipped, fmt.Sprintf("%s: EC2 has reclaimed the Spot instance %s", j.Trigger, j.InstanceID))
	default:
		j.end(StatusSkipped, fmt.Sprintf("%s: %s stopped while it was %s (%s): too late to drain", j.Trigger, j.InstanceID, i.State, known.StopReason))
		j.log.Warn("instance stopped without its hook", "group", i.Group, "state", i.State, "stopReason", known.StopReason)
		if j.Metrics != nil {
			j.Metrics.UnhookedStop()
		}
	}
}
