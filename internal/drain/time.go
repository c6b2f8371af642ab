package drain

import (
	"context"
	"time"
)

// Earliest returns the earlier of two times. A zero time stands for never, or for unknown.
func Earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func middle(a, b time.Time) time.Time { return a.Add(b.Sub(a) / 2) }

// Sleep waits for d. It returns the cause of ctx when ctx ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
