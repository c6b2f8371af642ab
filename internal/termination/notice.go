package termination

import (
	"context"
	"fmt"
	"time"
)

const (
	// spotTime is what a drain has from a Spot interruption notice. EC2 gives two minutes
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html).
	spotTime = 100 * time.Second
	// spotMaxWait is how long a phase holds back the next then, and how long an escort takes: a phase that is stuck leaves the others
	// most of spotTime, and a replacement would hardly come in it.
	spotMaxWait = 25 * time.Second
	// spotReserve is for kubelets to end what was told last, and for a machine that goes a little early.
	spotReserve = 20 * time.Second
)

// runInterruption drains for a notice: the same drain with another clock. Nobody waits for it, and there is nothing to complete.
func (w *job) runInterruption(ctx context.Context) error {
	slice, cancel := boundInvocation(ctx)
	defer cancel()
	if err := w.findGroup(slice); err != nil {
		return w.failed(err)
	}
	if !w.Policy.OwnsGroup(w.Group) {
		w.end(StatusSkipped, fmt.Sprintf("%s: %s is in no group of ours", w.Trigger, w.InstanceID))
		return nil
	}
	all, err := w.Groups.Instances(slice, w.Group)
	if err != nil {
		return w.failed(err)
	}
	w.setClock()
	rejection, err := w.verifyInterruption(slice, all)
	if err != nil {
		return w.failed(err)
	}
	if rejection != "" {
		w.end(StatusRejected, rejection)
		return nil
	}
	if w.Policy.Shadow {
		w.planDryRun(slice, all)
		return nil
	}
	return w.drainWithoutHook(slice, all)
}

// setClock: a Spot instance goes when EC2 said so, ready or not. Nothing is begun for it that takes longer. A slice that begins at its
// deadline, or soon after it, has a last look, or who was to be told to stop when the one before it ended would die untold.
func (w *job) setClock() {
	if w.Trigger == SpotInterruption {
		w.maxWait, w.report.Deadline = spotMaxWait, withFinalPass(w.Began.Add(spotTime), time.Now())
		return
	}
	w.report.Deadline = w.Policy.Bounds.deadline(w.Began, w.Began, Hook{})
}

// verifyInterruption asks whether a notice can be true: of a Spot instance that is still there, and in time. That EC2 really takes it
// back can only be seen when it is too late.
func (w *job) verifyInterruption(ctx context.Context, all []Instance) (rejection string, err error) {
	machines, err := w.Groups.EC2Instances(ctx, w.InstanceID)
	machine, state := machines[w.InstanceID], instanceOf(all, w.InstanceID).State
	switch {
	case err != nil:
		return "", err
	case state != inService && !instanceOf(all, w.InstanceID).isWaiting():
		return fmt.Sprintf("%s: %s is %q: nothing can be done for it", w.Trigger, w.InstanceID, state), nil
	case !machine.Spot:
		return fmt.Sprintf("%s: %s is no Spot instance", w.Trigger, w.InstanceID), nil
	case !time.Now().Before(w.report.Deadline):
		return fmt.Sprintf("%s: it is too late for one of %s", w.Trigger, w.Began.Format(time.RFC3339)), nil
	}
	return "", nil
}
