package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const (
	// leaseNamespace holds the Leases; infra/rbac.yaml makes it.
	leaseNamespace = "quiesce"
	// leaseDuration is how long a crashed holder keeps others waiting: three renewals, so that one lost renewal does no harm.
	leaseDuration = 30 * time.Second
	// leaseRenewal costs one request per drain and period.
	leaseRenewal = 10 * time.Second
	// leaseRetry is how soon a renewal that failed is repeated. After an outage the holder must be faster than another invocation, which
	// would take an expired Lease. Sooner would load a server that recovers.
	leaseRetry = time.Second
	// renewTimeout bounds one renewal. A request that hangs as long as callTimeout would leave no time for another before the Lease expires.
	renewTimeout = 5 * time.Second
	// releaseTimeout bounds the release; a Lease that is not released in that time expires.
	releaseTimeout = 2 * time.Second
)

// errLeaseLost: another invocation took the Lease over. The error that wraps it names its holder, if it has one.
var errLeaseLost = errors.New("another invocation has taken the lease")

// lease is a Lease that this invocation holds. Renewals, records and the release write to it one at a time.
type lease struct {
	*Client
	shorten func(deadline time.Time) // is told the deadline that is on the Lease
	lost    func()                   // is called when another invocation holds it; nil: nothing is
	stop    func()                   // ends the renewals, and waits for one that is under way
	parent  context.Context          // of the release
	unclean int                      // invocations in a row before this one that did not release the Lease
	podGone atomic.Bool              // since the last write
	losing  sync.Once

	writing chan struct{} // full during a request, so that one writes at a time and Record never waits
	mutex   sync.Mutex
	object  *coordinationv1.Lease // as last written or read; it is replaced, never changed
	unsure  bool                  // the last write failed: the Lease may have what was written, or not
	loss    error                 // why it is not this invocation's any more; nil: it is, as far as is known
}

func (l *lease) current() *coordinationv1.Lease {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.object
}

func (l *lease) setCurrent(object *coordinationv1.Lease) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.object, l.unsure = object, false
}

// has reports whether an annotation is certainly this text, or certainly missing if the text is empty. A write whose answer was lost may have
// changed it.
func (l *lease) has(key, text string) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return !l.unsure && l.object.Annotations[key] == text
}

func (l *lease) setUnsure() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.unsure = true
}

// ShortenDeadline writes a deadline on the Lease of an instance, for its holder. A Lease that is gone was released: the next holder
// is told by the caller's next attempt.
func (c *Client) ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error {
	for attempt := 0; ; attempt++ {
		err := c.annotateLease(ctx, instanceID, deadline)
		switch {
		case err == nil, apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err) || attempt == conflictRetries:
			return fmt.Errorf("write a deadline on lease %s: %w", instanceID, bounded(err))
		}
	}
}

func (c *Client) annotateLease(ctx context.Context, name string, deadline time.Time) error {
	found, err := c.getLease(ctx, name)
	if err != nil || !annotateDeadline(found, deadline) {
		return err
	}
	_, err = c.updateLease(ctx, found)
	return err
}

// interruptionTime is how long a deadline on a Lease is that of an interruption under way: EC2 announces two minutes. An older one is of an
// instance that hibernated since.
const interruptionTime = 2 * time.Minute

// annotateDeadline writes a deadline on a Lease, and reports whether that changes it. An earlier deadline stays: EC2 reclaims the instance
// once, and a warning that comes again, or is forged, must not gain time.
func annotateDeadline(l *coordinationv1.Lease, deadline time.Time) (changed bool) {
	there := annotatedTime(l, deadlineAnnotation)
	if !there.IsZero() && !there.After(deadline) && time.Since(there) < interruptionTime {
		return false
	}
	annotate(l, deadlineAnnotation, timeText(deadline))
	return true
}

// leasePage bounds how many Leases one request lists. There is one for each drain under way. Its annotations may have 256 KB.
const leasePage = 100

// Leases returns the Leases in the function's namespace: of instances, and of groups of pods that escorts take turns with.
func (c *Client) Leases(ctx context.Context) (all []termination.LeaseInfo, err error) {
	err = c.eachLease(ctx, func(l *coordinationv1.Lease) {
		all = append(all, c.leaseInfo(l))
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (c *Client) leaseInfo(l *coordinationv1.Lease) termination.LeaseInfo {
	return termination.LeaseInfo{Name: l.Name, Held: !c.mayTake(l), Received: firstReceived(l), Closed: closedNodes(l), Escorted: escortedPods(l)}
}

// eachLease calls visit for each Lease in the function's namespace.
func (c *Client) eachLease(ctx context.Context, visit func(*coordinationv1.Lease)) error {
	options := metav1.ListOptions{Limit: leasePage}
	for {
		page := &coordinationv1.LeaseList{}
		err := c.coordination.Get().Namespace(leaseNamespace).Resource("leases").
			VersionedParams(&options, params).Timeout(callTimeout).Do(ctx).Into(page)
		if err != nil {
			return fmt.Errorf("list leases: %w", err)
		}
		for i := range page.Items {
			visit(&page.Items[i])
		}
		if page.Continue == "" {
			return nil
		}
		options.Continue = page.Continue
	}
}

// renew renews the Lease until ctx ends. A failed renewal is soon followed by the next: at worst another invocation takes over.
func (l *lease) renew(ctx context.Context) {
	timer := time.NewTimer(leaseRenewal)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := leaseRenewal
		if err := l.renewOnce(ctx); err != nil && !errors.Is(err, errLeaseLost) {
			wait = leaseRetry
		}
		timer.Reset(wait)
	}
}

// renewOnce renews the Lease, and reads what others wrote on it.
func (l *lease) renewOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	err := l.write(ctx, func(*coordinationv1.Lease) error { return nil })
	if err == nil {
		l.readDeadline()
	}
	return err
}

// readDeadline passes on a deadline that is on the Lease. One that cannot be parsed is ignored.
func (l *lease) readDeadline() {
	if deadline := annotatedTime(l.current(), deadlineAnnotation); !deadline.IsZero() && l.shorten != nil {
		l.shorten(deadline)
	}
}

// Release implements termination.Lease.
func (l *lease) Release(keep termination.Keep) error {
	return l.release(func(next *coordinationv1.Lease) bool { return trim(next, keep) })
}

// release gives the Lease up, on a context of its own. It deletes a Lease of which keep keeps nothing. A Lease that another invocation took
// over is left to it.
func (l *lease) release(keep func(next *coordinationv1.Lease) bool) error {
	l.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.parent), releaseTimeout)
	defer cancel()
	err := l.asHolder(ctx, func(now *coordinationv1.Lease) error {
		next := now.DeepCopy()
		if !keep(next) {
			return l.deleteLease(ctx, now)
		}
		next.Spec.HolderIdentity = nil
		_, err := l.updateLease(ctx, next)
		return err
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || errors.Is(err, errLeaseLost) {
		return nil
	}
	return fmt.Errorf("release lease %s: %w", l.current().Name, bounded(err))
}

// write changes the Lease, if this invocation still holds it, and renews it: otherwise what is written after an outage would be of a
// holder whose Lease is free to take. A Lease that is gone was taken, released and deleted by another. An invocation whose pods go has
// not failed, however it ends.
func (l *lease) write(ctx context.Context, change func(next *coordinationv1.Lease) error) error {
	err := l.asHolder(ctx, func(now *coordinationv1.Lease) error {
		next, renewed := now.DeepCopy(), metav1.NowMicro()
		next.Spec.RenewTime = &renewed
		if err := change(next); err != nil {
			return err
		}
		podGone := l.podGone.Swap(false)
		if podGone {
			annotate(next, attemptsAnnotation, "")
		}
		updated, err := l.updateLease(ctx, next)
		if err == nil {
			l.setCurrent(updated)
			return nil
		}
		if !apierrors.IsConflict(err) {
			l.setUnsure()
		}
		if podGone {
			l.podGone.Store(true)
		}
		return temporary(err)
	})
	if errors.Is(err, errLeaseLost) || apierrors.IsNotFound(err) {
		l.losing.Do(func() { l.lose(err) })
	}
	return err
}

// lose notes why the Lease is not this invocation's any more.
func (l *lease) lose(why error) {
	l.mutex.Lock()
	l.loss = why
	l.mutex.Unlock()
	if l.lost != nil {
		l.lost()
	}
}

// asHolder runs a request about the Lease as it is now. A conflict may be our own doing, by a request whose answer was lost, or a
// deadline that someone wrote: then the request is repeated once, unless another invocation holds the Lease.
func (l *lease) asHolder(ctx context.Context, request func(now *coordinationv1.Lease) error) error {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	now := l.current()
	err := request(now)
	if !apierrors.IsConflict(err) {
		return err
	}
	found, err := l.getLease(ctx, now.Name)
	if err != nil {
		return temporary(err)
	}
	if holderOf(found) != holderOf(now) {
		if holderOf(found) == "" {
			return fmt.Errorf("%w, and has released it", errLeaseLost)
		}
		return fmt.Errorf("%w: %s", errLeaseLost, drain.Short(holderOf(found)))
	}
	l.setCurrent(found)
	return request(found)
}

func (l *lease) create(ctx context.Context) error {
	return l.coordination.Post().Namespace(leaseNamespace).Resource("leases").
		Body(l.object).Timeout(callTimeout).Do(ctx).Into(l.object)
}

func (c *Client) getLease(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	found := &coordinationv1.Lease{}
	return found, c.coordination.Get().Namespace(leaseNamespace).Resource("leases").Name(name).Timeout(callTimeout).Do(ctx).Into(found)
}

func (c *Client) updateLease(ctx context.Context, next *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	updated := &coordinationv1.Lease{}
	return updated, c.coordination.Put().Namespace(leaseNamespace).Resource("leases").Name(next.Name).
		Body(next).Timeout(callTimeout).Do(ctx).Into(updated)
}

// deleteLease deletes the Lease unless it has been changed since.
func (c *Client) deleteLease(ctx context.Context, l *coordinationv1.Lease) error {
	unchanged := &metav1.Preconditions{ResourceVersion: &l.ResourceVersion}
	return c.coordination.Delete().Namespace(leaseNamespace).Resource("leases").Name(l.Name).
		Body(&metav1.DeleteOptions{Preconditions: unchanged}).Timeout(callTimeout).Do(ctx).Error()
}

// DeleteFreeLease deletes the Lease of an instance that is gone, unless an invocation holds it.
func (c *Client) DeleteFreeLease(ctx context.Context, instanceID string) error {
	found, err := c.getLease(ctx, instanceID)
	if err == nil && isFree(found) {
		err = c.deleteLease(ctx, found)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete lease %s of an instance that is gone: %w", instanceID, err)
	}
	return nil
}
