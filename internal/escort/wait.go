package escort

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
)

// ErrTimeout says that the time for a step, or for the whole escort, is over.
var ErrTimeout = errors.New("escort timeout reached")

// Poll calls condition at once and then at each interval, until it reports true or fails. It returns ErrTimeout at the deadline, and
// the cause of ctx when ctx ends. If both come at the same moment, it is the cause: what the caller does at the deadline needs a ctx.
func Poll(ctx context.Context, deadline time.Time, interval time.Duration, condition func() (bool, error)) error {
	return PollOr(ctx, nil, deadline, interval, condition)
}

// PollOr is Poll that also ends when done is closed. Done may be nil.
func PollOr(ctx context.Context, done <-chan struct{}, deadline time.Time, interval time.Duration, condition func() (bool, error)) error {
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if met, err := condition(); met || err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			if end, limited := ctx.Deadline(); limited && !end.After(deadline) {
				<-ctx.Done() // its timer is about to fire
				return context.Cause(ctx)
			}
			return ErrTimeout
		case <-ticker.C:
		}
	}
}

// Sleep waits for d. It returns the cause of ctx when ctx ends before.
func Sleep(ctx context.Context, d time.Duration) error { return drain.Sleep(ctx, d) }

// IgnoreTimeout returns nil for ErrTimeout, and any other error as it is.
func IgnoreTimeout(err error) error {
	if errors.Is(err, ErrTimeout) {
		return nil
	}
	return err
}

// Earlier returns the earlier of two times.
func Earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
