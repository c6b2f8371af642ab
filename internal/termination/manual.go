package termination

import (
	"context"
	"fmt"
	"time"
)

// handleRequest does what a manual invocation asks for.
func (h *Handler) handleRequest(ctx context.Context, r Request) (Report, error) {
	j := h.newJob(Termination{InstanceID: r.InstanceID, Hook: h.Policy.Hook, Began: time.Now()})
	var err error
	switch r.Action {
	case ActionPlan:
		err = j.runPlan(ctx, r)
	case ActionDrain:
		err = j.drainManually(ctx)
	default:
		err = fmt.Errorf("action %q is not known", r.Action)
		j.end(StatusRejected, err.Error())
		err = &Malformed{err}
	}
	j.finish()
	if r.Action == ActionDrain {
		j.publish(ctx, err)
	}
	return j.report, err
}

// drainManually drains an instance that waits on our hook as its event would. It drains any other instance only if the operator
// allows that, and then completes nothing.
func (j *job) drainManually(ctx context.Context) error {
	instance, err := j.findGroup(ctx)
	if err != nil {
		return j.failed(err)
	}
	owned, err := j.isOurs(ctx)
	switch {
	case err != nil:
		return j.failed(err)
	case owned && instance.isWaiting():
		j.Began = time.Time{} // no event says when the wait began: the first receipt counts
		return j.run(ctx)
	case !j.Policy.AllowManualDrain:
		j.end(StatusRejected, fmt.Sprintf("%s does not wait on hook %s, and allowManualDrain is off", j.InstanceID, j.Hook))
		return nil
	}
	invocation, cancel := j.boundInvocation(ctx)
	defer cancel()
	j.clock.setWithoutHook(j.Began)
	return j.drainWithoutHook(invocation, instance)
}

// findGroup looks up the group of the instance, if there is one.
func (j *job) findGroup(ctx context.Context) (instance Instance, err error) {
	if instance, err = j.Groups.Instance(ctx, j.InstanceID); err != nil {
		return instance, err
	}
	j.Group = instance.Group
	j.report.Group = j.Group
	j.log = j.Log.With("instance", j.InstanceID, "group", j.Group)
	return instance, nil
}
