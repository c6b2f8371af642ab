package kube

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const (
	// acquireRetries bounds the tries to acquire a Lease that others release meanwhile, or whose requests get no answer.
	acquireRetries = 3
	// acquireTimeout bounds the first request. A drain has ten seconds for all of them, so one that hangs over a dead connection leaves time
	// for others. A server with much to do may answer later: the others have all the time that is left, and find what the first one did.
	acquireTimeout = 3 * time.Second
)

// AcquireLease acquires the Lease of an instance, which has the instance's ID for its name; nil: another invocation holds it.
func (c *Client) AcquireLease(ctx context.Context, instanceID string, a termination.Acquisition) (termination.Lease, error) {
	l, err := c.hold(ctx, ctx, instanceID, a, func(l *coordinationv1.Lease) {
		annotate(l, receivedAnnotation, timeText(drain.Earliest(a.Received, firstReceived(l))))
		if !a.Deadline.IsZero() {
			annotateDeadline(l, a.Deadline)
		}
		annotate(l, attemptsAnnotation, strconv.Itoa(attempts(l)+1))
	})
	if l == nil || err != nil {
		return nil, err
	}
	return l, nil
}

// AcquireGroupLease acquires the Lease of this name, and renews it until release is called, which deletes it; acquired is false if another
// holds it (https://kubernetes.io/docs/concepts/architecture/leases/).
func (c *Client) AcquireGroupLease(ctx context.Context, name string) (release func() error, acquired bool, err error) {
	l, err := c.holdGroup(ctx, name)
	if l == nil || err != nil {
		return nil, false, withPermission(err)
	}
	return func() error { return l.Release(termination.KeepNothing) }, true, nil
}

// holdGroup acquires the Lease of a group; nil: another holds it. It is renewed after the end of ctx too: what its holder has paused is resumed
// then.
func (c *Client) holdGroup(ctx context.Context, name string) (*lease, error) {
	return c.hold(ctx, context.WithoutCancel(ctx), name, termination.Acquisition{}, func(*coordinationv1.Lease) {})
}

// hold acquires a Lease, and renews it until the second context ends. Each call is a holder of its own: one process may run two
// invocations. Begin changes the Lease in the same request that acquires it.
func (c *Client) hold(
	ctx, holding context.Context, name string, a termination.Acquisition, begin func(*coordinationv1.Lease),
) (*lease, error) {
	l := &lease{Client: c, shorten: a.Shorten, lost: a.Lost, parent: ctx, writing: make(chan struct{}, 1)}
	acquired, err := l.acquire(ctx, name, begin)
	if err != nil {
		return nil, fmt.Errorf("acquire lease %s: %w", name, bounded(err))
	}
	if !acquired {
		return nil, nil
	}
	l.readDeadline()
	renewing, cancel := context.WithCancel(holding)
	var renewal sync.WaitGroup
	renewal.Go(func() { l.renew(renewing) })
	l.stop = func() { cancel(); renewal.Wait() }
	return l, nil
}

// acquire creates the Lease, or takes over one that was released or has expired; false: another holds it. What a Lease says that is
// taken over stays. After an error the Lease is read: the answer to a request that succeeded can be lost, and its repetition would be
// another holder, which had to wait until the Lease expires. For the same reason all tries are of one holder.
func (l *lease) acquire(ctx context.Context, name string, begin func(*coordinationv1.Lease)) (acquired bool, err error) {
	holder, create := "quiesce-"+rand.String(10), l.createSoon
	for range acquireRetries {
		l.object = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: leaseNamespace}}
		setHolder(l.object, holder)
		begin(l.object)
		if err = create(ctx); err == nil {
			return true, nil
		}
		create = l.create
		found, readErr := l.getLease(ctx, name)
		switch {
		case readErr == nil && holderOf(found) == holder:
			l.object = found
			return true, nil
		case !apierrors.IsAlreadyExists(err) && isAnswered(err):
			return false, err
		case apierrors.IsNotFound(readErr) || !isAnswered(readErr):
			continue // deleted between the two requests, or there was no answer
		case readErr != nil || !l.mayTake(found):
			return false, readErr
		}
		if acquired, err = l.takeOver(ctx, found, holder, begin); isAnswered(err) {
			return acquired, err
		}
	}
	return false, err
}

// takeOver acquires a Lease that is free, unless another invocation is faster.
func (l *lease) takeOver(ctx context.Context, free *coordinationv1.Lease, holder string, begin func(*coordinationv1.Lease)) (bool, error) {
	l.unclean = attempts(free)
	setHolder(free, holder)
	begin(free)
	updated, err := l.updateLease(ctx, free)
	if err != nil {
		found, readErr := l.getLease(ctx, free.Name)
		switch {
		case readErr == nil && holderOf(found) == holder:
			updated = found
		case apierrors.IsConflict(err):
			return false, nil
		default:
			return false, err
		}
	}
	l.object = updated
	return true, nil
}

// createSoon creates the Lease within acquireTimeout. When that is over, connections over which nothing came meanwhile are closed: they may
// be dead.
func (l *lease) createSoon(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	err := l.create(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		l.connections.closeSilent(began)
	}
	return err
}

// isAnswered reports whether the error is the API server's, or there is none. After any other error the request may have succeeded.
func isAnswered(err error) bool {
	var answer apierrors.APIStatus
	return err == nil || errors.As(err, &answer)
}

func setHolder(l *coordinationv1.Lease, holder string) {
	now, seconds := metav1.NowMicro(), int32(leaseDuration.Seconds())
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
}

// isFree reports whether the Lease was released or has expired. A renewal in the future is none of ours: clocks differ by less.
func isFree(l *coordinationv1.Lease) bool {
	return holderOf(l) == "" || l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time).Abs() > leaseDuration
}

func holderOf(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}
