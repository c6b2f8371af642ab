package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"quiesce/internal/escort"
)

// pausedAnnotation is on the Lease of a group whose holder has changed something that outlives it: poolers that it has paused.
const pausedAnnotation = ourAnnotation + "paused"

// expirySlack is how long before its end a Lease that is not renewed counts as lost: the clocks of two functions may differ that much. More
// would end moves that a short outage of the API server does not disturb.
const expirySlack = 5 * time.Second

// markedLease implements escort.MarkedLease.
type markedLease struct{ *lease }

// AcquireMarkedLease acquires the Lease of this name, and renews it until it is released; nil: another holds it.
func (c *Client) AcquireMarkedLease(ctx context.Context, name string) (escort.MarkedLease, error) {
	l, err := c.holdGroup(ctx, name)
	if l == nil || err != nil {
		return nil, withPermission(err)
	}
	return markedLease{l}, nil
}

// Mark implements escort.MarkedLease.
func (m markedLease) Mark() string { return m.current().Annotations[pausedAnnotation] }

// SetMark implements escort.MarkedLease.
func (m markedLease) SetMark(ctx context.Context, text string) error {
	switch {
	case m.has(pausedAnnotation, text):
		return nil
	case len(text) > escort.MaxRecord:
		return fmt.Errorf("mark lease %s: the mark has %d bytes, and at most %d fit", m.current().Name, len(text), escort.MaxRecord)
	}
	if err := m.setAnnotation(ctx, pausedAnnotation, text); err != nil {
		return fmt.Errorf("mark lease %s: %w", m.current().Name, bounded(err))
	}
	return nil
}

// takenError is escort.ErrTaken that names the new holder.
type takenError struct{ error }

func (takenError) Is(target error) bool { return target == escort.ErrTaken }

// Lost implements escort.MarkedLease.
func (m markedLease) Lost() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	switch renewed := m.object.Spec.RenewTime; {
	case errors.Is(m.loss, errLeaseLost):
		return takenError{m.loss}
	case m.loss != nil:
		return errors.New("it was deleted")
	case renewed == nil || time.Since(renewed.Time) > leaseDuration-expirySlack:
		return errors.New("it could not be renewed in time")
	}
	return nil
}

// Release implements escort.MarkedLease. It deletes a Lease without a mark.
func (m markedLease) Release() error {
	return m.release(func(next *coordinationv1.Lease) bool { return next.Annotations[pausedAnnotation] != "" })
}

// Marks returns the marks of the Leases whose names begin with the prefix.
func (c *Client) Marks(ctx context.Context, prefix string) (marks []escort.Mark, err error) {
	err = c.eachLease(ctx, func(l *coordinationv1.Lease) {
		if text := l.Annotations[pausedAnnotation]; text != "" && strings.HasPrefix(l.Name, prefix) {
			m := escort.Mark{Lease: l.Name, Text: text, Held: !c.mayTake(l)}
			if m.Held && l.Spec.AcquireTime != nil {
				m.Taken = l.Spec.AcquireTime.Time
			}
			marks = append(marks, m)
		}
	})
	return marks, err
}
