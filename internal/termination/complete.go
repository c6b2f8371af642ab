package termination

import (
	"context"
	"errors"
	"time"
)

const (
	// completeTimeout bounds the completion, which runs on a context of its own: whatever ended the drain must not also
	// keep the instance waiting for the whole timeout of its hook. A throttled account has mostly recovered by then; if not,
	// the next delivery goes on.
	completeTimeout = time.Minute
	// completeReserve is kept of the invocation's time for what comes after the completion.
	completeReserve = 500 * time.Millisecond
	// minCompleteTimeout is what it gets though the invocation's time is over: an instance that waits costs more than an answer.
	minCompleteTimeout = time.Second
	// completeRetry paces it: Auto Scaling's answers settle within a second or two.
	completeRetry = 500 * time.Millisecond
	// maxDenials is how many times in a row Auto Scaling must say that no action is active before it is believed of an
	// instance that still waits, on another hook than ours then. It takes three seconds.
	maxDenials = 6
	// newActionLag is how long Auto Scaling may take to know an action that it has sent an event of. A second or two were seen.
	newActionLag = time.Minute
)

// Why an action that is not active is as good as completed.
const (
	reasonActionOver   = "the lifecycle action had ended already"
	reasonOtherHook = "the lifecycle action had ended already; the instance waits on another hook"
)

// complete ends the lifecycle action. That none is active is said of one that has ended, for a moment of one that has just
// begun, and of a token that is of an earlier action: the instance's state and a request without the token tell which.
func (w *job) complete(ctx context.Context, result Result) error {
	ctx, cancel := completionContext(ctx)
	defer cancel()
	t, denied, doubted := w.Termination, 0, false
	var last error
	for {
		err := w.Hooks.Complete(ctx, t, result)
		switch {
		case err == nil:
			w.report.LifecycleResult = result
			w.log.Info("lifecycle action completed", "result", result)
			return nil
		case errors.Is(err, ErrNoActiveAction):
			denied++
			if reason := w.whyOver(ctx, denied); reason != "" {
				w.report.Reason = reason
				w.hookExpired = !doubted && w.heartbeats.sawActiveAction()
				return nil
			}
			t.Token = "" // the instance names the action that it is in
		default:
			if !doubted {
				w.log.Warn("completion failed, and is repeated", "error", err.Error())
			}
			doubted = true // whether it was only the answer that was lost
		}
		if ctx.Err() == nil || last == nil { // that time is over is not why
			last = err
		}
		if pause(ctx, completeRetry) != nil || ctx.Err() != nil {
			return w.failed(last)
		}
	}
}

// completionContext is a context for the completion, whatever became of the drain's.
func completionContext(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := completeTimeout
	if deadline, limited := ctx.Deadline(); limited {
		timeout = max(minCompleteTimeout, min(timeout, time.Until(deadline)-completeReserve))
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// whyOver is why the action is over, if that can be believed after so many denials.
func (w *job) whyOver(ctx context.Context, denied int) string {
	instances, err := w.Groups.Instances(ctx, w.Group)
	switch {
	case err != nil:
		return ""
	case !instanceOf(instances, w.InstanceID).isWaiting():
		return reasonActionOver
	case denied >= maxDenials && time.Since(w.Began) > newActionLag:
		return reasonOtherHook
	}
	return ""
}
