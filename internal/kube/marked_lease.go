package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/escort"
	"quiesce/internal/termination"
)

// pausedAnnotation is on the Lease of a group whose holder has changed something that outlives it: poolers that it has paused.
const pausedAnnotation = ourAnnotation + "paused"

// maxMarkBytes bounds a mark: a hundred poolers with several databases each.
const maxMarkBytes = 64 << 10

// markedLease implements escort.MarkedLease.
type markedLease struct{ *lease }

// AcquireMarkedLease takes the Lease of this name, and renews it until ctx ends or it is released; nil: another holds it.
func (c *Client) AcquireMarkedLease(ctx context.Context, name string) (escort.MarkedLease, error) {
	l, err := c.hold(ctx, name, termination.Acquisition{}, func(*coordinationv1.Lease) {})
	if l == nil || err != nil {
		return nil, err
	}
	return markedLease{l}, nil
}

// Mark implements escort.MarkedLease.
func (m markedLease) Mark() string { return m.current().Annotations[pausedAnnotation] }

// SetMark implements escort.MarkedLease.
func (m markedLease) SetMark(ctx context.Context, text string) error {
	switch {
	case text == m.Mark():
		return nil
	case len(text) > maxMarkBytes:
		return fmt.Errorf("mark lease %s: the mark has %d bytes, and at most %d fit", m.current().Name, len(text), maxMarkBytes)
	}
	if err := m.setAnnotation(ctx, pausedAnnotation, text); err != nil {
		return fmt.Errorf("mark lease %s: %w", m.current().Name, bounded(err))
	}
	return nil
}

// Release implements escort.MarkedLease. It deletes a Lease without a mark.
func (m markedLease) Release() error {
	m.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.parent), releaseTimeout)
	defer cancel()
	err := m.asHolder(ctx, func(now *coordinationv1.Lease) error {
		if now.Annotations[pausedAnnotation] == "" {
			return m.deleteLease(ctx, now.Name, &metav1.Preconditions{ResourceVersion: &now.ResourceVersion})
		}
		next := now.DeepCopy()
		next.Spec.HolderIdentity = nil
		_, err := m.updateLease(ctx, next)
		return err
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || errors.Is(err, errLeaseLost) {
		return nil
	}
	return fmt.Errorf("release lease %s: %w", m.current().Name, bounded(err))
}

// Marks returns the marks of the Leases whose names begin with the prefix.
func (c *Client) Marks(ctx context.Context, prefix string) (marks []escort.Mark, err error) {
	err = c.eachLease(ctx, func(l *coordinationv1.Lease) {
		if text := l.Annotations[pausedAnnotation]; text != "" && strings.HasPrefix(l.Name, prefix) {
			marks = append(marks, escort.Mark{Lease: l.Name, Text: text, Held: !isFree(l)})
		}
	})
	return marks, err
}
