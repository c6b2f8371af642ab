package termination

import (
	"context"
	"errors"
	"time"
)

const (
	// completeTimeout bounds the completion, which runs on a context of its own: whatever ended the drain must not also
	// keep the instance waiting for the whole timeout of its hook.
	completeTimeout = handOverReserve - 500*time.Millisecond
	// completeRetry paces it: Auto Scaling's answers settle within a second or two.
	completeRetry = 500 * time.Millisecond
)

// complete ends the lifecycle action. That none is active is believed only of an instance that no longer waits: the same
// words are said, for a moment, of an action that has just begun.
func (w *work) complete(ctx context.Context, result Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), completeTimeout)
	defer cancel()
	for {
		err := w.Hooks.Complete(ctx, w.Termination, result)
		switch {
		case err == nil:
			w.report.Lifecycle = result
			w.log.Info("lifecycle action completed", "result", result)
			return nil
		case errors.Is(err, ErrNoActiveAction) && w.isPastWaiting(ctx):
			w.report.Reason = "the lifecycle action had ended already"
			return nil
		}
		if pause(ctx, completeRetry) != nil {
			return w.failed(err)
		}
	}
}

func (w *work) isPastWaiting(ctx context.Context) bool {
	instances, err := w.Groups.Instances(ctx, w.Group)
	return err == nil && !instanceOf(instances, w.InstanceID).isWaiting()
}
