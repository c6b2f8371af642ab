package termination

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
)

const (
	// completeTimeout bounds the completion, which has a context of its own: the end of the drain's context must not also keep the
	// instance waiting for the whole timeout of its hook. A throttled account has mostly recovered by then; if not, the next delivery
	// continues.
	completeTimeout = time.Minute
	// completeReserve is kept of the invocation's time for what follows the completion.
	completeReserve = 500 * time.Millisecond
	// minCompleteTimeout is granted even if the invocation's time is over: an instance that waits costs more than a late answer.
	minCompleteTimeout = time.Second
	// completeRetry paces retries: Auto Scaling's answers are consistent within a second or two. After an error it is doubled each time, up
	// to maxCompleteRetry: a hundred drains may end in one minute, and asking a throttled account more often makes it worse. Longer would
	// keep an instance waiting after the account has recovered.
	completeRetry    = 500 * time.Millisecond
	maxCompleteRetry = 5 * time.Second
	// maxDenials is how many times in a row Auto Scaling must deny an active action before it is believed of an instance that still
	// waits, then on another hook. It takes three seconds.
	maxDenials = 6
	// newActionLag is how long Auto Scaling may take to know an action whose event it has sent. A second or two were seen. It is less
	// than completeTimeout, so that a duplicate event of an action that is over ends in its first invocation.
	newActionLag = 30 * time.Second
)

// Why an action that is not active counts as completed.
const (
	reasonActionOver = "the lifecycle action had ended already"
	reasonOtherHook  = "the lifecycle action had ended already; the instance waits on another hook"
)

// complete ends the lifecycle action. Auto Scaling denies an active action if it has ended, for a moment if it has just begun, and if
// the token is of an earlier action. The instance's state, and a request without the token, tell which.
func (j *job) complete(ctx context.Context, result Result) error {
	ctx, cancel := completionContext(ctx)
	defer cancel()
	t, denials, doubted := j.Termination, 0, false
	var last error
	for wait := completeRetry; ; wait = min(2*wait, maxCompleteRetry) {
		err := j.Hooks.Complete(ctx, t, result)
		switch {
		case err == nil:
			j.report.LifecycleResult = result
			j.log.Info("lifecycle action completed", "result", result)
			return nil
		case errors.Is(err, ErrNoActiveAction):
			denials, wait = denials+1, completeRetry
			if reason := j.whyOver(ctx, denials); reason != "" {
				j.report.Reason = drain.Sentence(j.report.Reason, reason)
				j.hookExpired = !doubted && j.heartbeats.sawActiveAction()
				return nil
			}
			t.Token = "" // the instance names its present action
		default:
			if !doubted {
				j.log.Warn("CompleteLifecycleAction failed, retrying", "error", err.Error())
			}
			doubted = true // perhaps only the answer was lost
		}
		if ctx.Err() == nil || last == nil { // the end of ctx is not the reason
			last = err
		}
		if drain.Sleep(ctx, wait-drain.Jitter(j.InstanceID, wait-completeRetry)) != nil || ctx.Err() != nil {
			return j.failed(last)
		}
	}
}

// completionContext returns a context for the completion, independent of the drain's.
func completionContext(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := completeTimeout
	if deadline, limited := ctx.Deadline(); limited {
		timeout = max(minCompleteTimeout, min(timeout, time.Until(deadline)-completeReserve))
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// whyOver returns why the action is over; empty: after so many denials that cannot be believed yet.
func (j *job) whyOver(ctx context.Context, denials int) string {
	instance, err := j.Groups.Instance(ctx, j.InstanceID)
	switch {
	case err != nil:
		return ""
	case !instance.isWaiting():
		return reasonActionOver
	case denials >= maxDenials && time.Since(j.Began) > newActionLag:
		return reasonOtherHook
	}
	return ""
}
