package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"quiesce/internal/termination"
)

const (
	// leaseNamespace holds the Leases; infra/rbac.yaml makes it.
	leaseNamespace = "quiesce"
	// leaseDuration is how long a crashed holder keeps others waiting: three renewals, so that one lost renewal does no harm.
	leaseDuration = 30 * time.Second
	// leaseRenewal costs one request per drain and period.
	leaseRenewal = 10 * time.Second
	// releaseTimeout bounds the release; a Lease that is not released in that time expires.
	releaseTimeout = 2 * time.Second
	// deadlineAnnotation is on a Lease whose holder has less time than it knows of.
	deadlineAnnotation = "quiesce/deadline"
	// recordAnnotation begins the annotations that hold records; the pod's UID follows.
	recordAnnotation = "quiesce/escort."
)

// errLeaseLost: another invocation took the Lease over.
var errLeaseLost = errors.New("the lease is held by another invocation")

// lease is a Lease that this invocation holds. Renewals, records and the release write to it one at a time.
type lease struct {
	*Client
	shorten func(deadline time.Time) // is told the deadline that is on the Lease
	stop    func()                   // ends the renewals, and waits for one that is under way
	parent  context.Context          // of the release

	writing chan struct{} // full during a request, so that one writes at a time and Record never waits
	mutex   sync.Mutex
	object  *coordinationv1.Lease // as last written or read; it is replaced, never changed
}

func (l *lease) current() *coordinationv1.Lease {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.object
}

func (l *lease) setCurrent(object *coordinationv1.Lease) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.object = object
}

// AcquireLease takes the Lease of an instance, which has the instance's ID for its name; nil: another invocation holds it.
func (c *Client) AcquireLease(ctx context.Context, instanceID string, shorten func(time.Time)) (termination.Lease, error) {
	l, err := c.hold(ctx, instanceID, shorten)
	if l == nil || err != nil {
		return nil, err
	}
	return l, nil
}

// AcquireGroupLease takes the Lease of this name, and renews it until ctx ends or release is called, which deletes it; acquired is
// false if another holds it (https://kubernetes.io/docs/concepts/architecture/leases/).
func (c *Client) AcquireGroupLease(ctx context.Context, name string) (release func() error, acquired bool, err error) {
	l, err := c.hold(ctx, name, func(time.Time) {})
	if l == nil || err != nil {
		return nil, false, err
	}
	return func() error { return l.Release(termination.KeepNothing) }, true, nil
}

// hold acquires a Lease and renews it. Each call is a holder of its own: one process may run two invocations.
func (c *Client) hold(ctx context.Context, name string, shorten func(time.Time)) (*lease, error) {
	l, err := c.acquire(ctx, name, "quiesce-"+rand.String(10))
	if err != nil {
		return nil, fmt.Errorf("acquire lease %s: %w", name, err)
	}
	if l == nil {
		return nil, nil
	}
	l.shorten, l.parent = shorten, ctx
	l.readDeadline()
	renewing, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() { l.renew(renewing) })
	l.stop = func() { cancel(); renewal.Wait() }
	return l, nil
}

// acquire creates the Lease, or takes over one that was released or has expired; nil: another holds it. What a Lease says that is
// taken over stays.
func (c *Client) acquire(ctx context.Context, name, holder string) (*lease, error) {
	l := &lease{Client: c, writing: make(chan struct{}, 1), object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: leaseNamespace}}}
	setHolder(l.object, holder)
	err := l.create(ctx)
	if !apierrors.IsAlreadyExists(err) {
		return l, err
	}
	found, err := c.getLease(ctx, name)
	if apierrors.IsNotFound(err) {
		return c.acquire(ctx, name, holder) // deleted between the two requests
	}
	if err != nil || !isFree(found) {
		return nil, err
	}
	setHolder(found, holder)
	l.object, err = c.updateLease(ctx, found)
	if apierrors.IsConflict(err) {
		return nil, nil // another invocation was faster
	}
	return l, err
}

func setHolder(l *coordinationv1.Lease, holder string) {
	now, seconds := metav1.NowMicro(), int32(leaseDuration.Seconds())
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
}

// isFree reports whether the Lease was released or has expired.
func isFree(l *coordinationv1.Lease) bool {
	return l.Spec.HolderIdentity == nil || l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) > leaseDuration
}

// ShortenDeadline writes a deadline on the Lease of an instance, for its holder. A Lease that is gone was released: the next holder
// is told by the caller's next attempt.
func (c *Client) ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error {
	text := deadline.UTC().Format(time.RFC3339Nano)
	for attempt := 0; ; attempt++ {
		err := c.annotateLease(ctx, instanceID, text)
		switch {
		case err == nil, apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err) || attempt == conflictRetries:
			return fmt.Errorf("write a deadline on lease %s: %w", instanceID, err)
		}
	}
}

func (c *Client) annotateLease(ctx context.Context, name, deadline string) error {
	found, err := c.getLease(ctx, name)
	if err != nil || found.Annotations[deadlineAnnotation] == deadline {
		return err
	}
	metav1.SetMetaDataAnnotation(&found.ObjectMeta, deadlineAnnotation, deadline)
	_, err = c.updateLease(ctx, found)
	return err
}

// leasePage bounds how many Leases one request lists. There is one for each drain under way.
const leasePage = 500

// Leases returns the Leases in the function's namespace: of instances, and of groups of pods that escorts take turns with.
func (c *Client) Leases(ctx context.Context) ([]termination.LeaseInfo, error) {
	var all []termination.LeaseInfo
	options := metav1.ListOptions{Limit: leasePage}
	for {
		page := &coordinationv1.LeaseList{}
		err := c.coordination.Get().Namespace(leaseNamespace).Resource("leases").
			VersionedParams(&options, params).Timeout(callTimeout).Do(ctx).Into(page)
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", err)
		}
		for i := range page.Items {
			all = append(all, termination.LeaseInfo{Name: page.Items[i].Name, Held: !isFree(&page.Items[i])})
		}
		if page.Continue == "" {
			return all, nil
		}
		options.Continue = page.Continue
	}
}

// renew renews the Lease until ctx ends. A failed renewal is followed by the next: at worst another invocation takes over, and
// evictions are safe to repeat.
func (l *lease) renew(ctx context.Context) {
	ticker := time.NewTicker(leaseRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = l.renewOnce(ctx)
		}
	}
}

// renewOnce renews the Lease, and reads what others wrote on it.
func (l *lease) renewOnce(ctx context.Context) error {
	err := l.write(ctx, func(next *coordinationv1.Lease) {
		now := metav1.NowMicro()
		next.Spec.RenewTime = &now
	})
	if err == nil {
		l.readDeadline()
	}
	return err
}

// readDeadline passes on a deadline that is on the Lease. One that cannot be parsed is ignored.
func (l *lease) readDeadline() {
	if deadline, err := time.Parse(time.RFC3339Nano, l.current().Annotations[deadlineAnnotation]); err == nil {
		l.shorten(deadline)
	}
}

// Record implements drain.Records.
func (l *lease) Record(podUID string) string {
	return l.current().Annotations[recordAnnotation+podUID]
}

// SetRecord implements drain.Records.
func (l *lease) SetRecord(ctx context.Context, podUID, text string) error {
	key := recordAnnotation + podUID
	err := l.write(ctx, func(next *coordinationv1.Lease) {
		if text == "" {
			delete(next.Annotations, key)
			return
		}
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, key, text)
	})
	if err != nil {
		return fmt.Errorf("write a record on lease %s: %w", l.current().Name, err)
	}
	return nil
}

// Release implements termination.Lease, on a context of its own. A Lease that another invocation took over is left to it.
func (l *lease) Release(keep termination.Keep) error {
	l.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.parent), releaseTimeout)
	defer cancel()
	err := l.asHolder(ctx, func(now *coordinationv1.Lease) error {
		next := now.DeepCopy()
		if !trim(next, keep) {
			return l.deleteLease(ctx, now.Name, &metav1.Preconditions{ResourceVersion: &now.ResourceVersion})
		}
		next.Spec.HolderIdentity = nil
		_, err := l.updateLease(ctx, next)
		return err
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || errors.Is(err, errLeaseLost) {
		return nil
	}
	return fmt.Errorf("release lease %s: %w", l.current().Name, err)
}

// trim removes our annotations that are not kept, and reports whether any is left.
func trim(l *coordinationv1.Lease, keep termination.Keep) (any bool) {
	for key := range l.Annotations {
		switch isRecord := strings.HasPrefix(key, recordAnnotation); {
		case !isRecord && key != deadlineAnnotation: // not ours
		case keep == termination.KeepAll, keep == termination.KeepRecords && isRecord:
			any = true
		default:
			delete(l.Annotations, key)
		}
	}
	return any
}

// write changes the Lease, if this invocation still holds it.
func (l *lease) write(ctx context.Context, change func(next *coordinationv1.Lease)) error {
	return l.asHolder(ctx, func(now *coordinationv1.Lease) error {
		next := now.DeepCopy()
		change(next)
		updated, err := l.updateLease(ctx, next)
		if err == nil {
			l.setCurrent(updated)
		}
		return err
	})
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
		return err
	}
	if found.Spec.HolderIdentity == nil || *found.Spec.HolderIdentity != *now.Spec.HolderIdentity {
		return errLeaseLost
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

func (c *Client) deleteLease(ctx context.Context, name string, conditions *metav1.Preconditions) error {
	return c.coordination.Delete().Namespace(leaseNamespace).Resource("leases").Name(name).
		Body(&metav1.DeleteOptions{Preconditions: conditions}).Do(ctx).Error()
}

// DeleteFreeLease deletes the Lease of an instance that is gone, unless an invocation holds it.
func (c *Client) DeleteFreeLease(ctx context.Context, instanceID string) error {
	found, err := c.getLease(ctx, instanceID)
	if err == nil && isFree(found) {
		err = c.deleteLease(ctx, instanceID, &metav1.Preconditions{ResourceVersion: &found.ResourceVersion})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete lease %s of an instance that is gone: %w", instanceID, err)
	}
	return nil
}
