package kube

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

const (
	// leaseNamespace holds the Leases; infra/rbac.yaml makes it.
	leaseNamespace = "quiesce"
	// leaseDuration is how long a crashed owner keeps others waiting: three renewals, so that one lost is no harm.
	leaseDuration = 30 * time.Second
	// leaseRenewal is one request per drain and period.
	leaseRenewal = 10 * time.Second
	// releaseTimeout bounds giving the Lease back; what is not given back in that time expires by itself.
	releaseTimeout = 2 * time.Second
	// deadlineAnnotation is on a Lease whose owner has less time than it knows of.
	deadlineAnnotation = "quiesce/deadline"
)

// lease is a Lease in our hands.
type lease struct {
	*Client
	object *coordinationv1.Lease
	hasten func(deadline time.Time) // told of a deadline that is on it
}

// AcquireLease implements termination.Leases: an instance's Lease has its name.
func (c *Client) AcquireLease(ctx context.Context, instanceID string, hasten func(time.Time)) (
	release func(goesOn bool) error, owned bool, err error,
) {
	return c.hold(ctx, instanceID, hasten)
}

// ShortenDeadline implements termination.Leases. Its owner renews the Lease every few seconds, so that a second collision is unlikely.
func (c *Client) ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error {
	l := &lease{Client: c, object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: instanceID}}}
	text := deadline.UTC().Format(time.RFC3339Nano)
	for attempt := 0; ; attempt++ {
		err := l.annotate(ctx, text)
		switch {
		case err == nil, apierrors.IsNotFound(err): // given back: the next owner is told
			return nil
		case !apierrors.IsConflict(err) || attempt == conflictRetries:
			return fmt.Errorf("leave a deadline on the lease of %s: %w", instanceID, err)
		}
	}
}

func (l *lease) annotate(ctx context.Context, deadline string) error {
	found, err := l.get(ctx)
	if err != nil || found.Annotations[deadlineAnnotation] == deadline {
		return err
	}
	l.object = found
	metav1.SetMetaDataAnnotation(&l.object.ObjectMeta, deadlineAnnotation, deadline)
	return l.update(ctx)
}

// leasePage bounds how many Leases are fetched at once: there is one for each drain under way.
const leasePage = 500

// HeldLeases implements termination.Leases: the names of all Leases that have not expired, escorts' included.
func (c *Client) HeldLeases(ctx context.Context) ([]string, error) {
	var names []string
	options := metav1.ListOptions{Limit: leasePage}
	for {
		page := &coordinationv1.LeaseList{}
		err := c.coordination.Get().Namespace(leaseNamespace).Resource("leases").
			VersionedParams(&options, params).Timeout(callTimeout).Do(ctx).Into(page)
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", err)
		}
		for i := range page.Items {
			if !expired(&page.Items[i]) {
				names = append(names, page.Items[i].Name)
			}
		}
		if page.Continue == "" {
			return names, nil
		}
		options.Continue = page.Continue
	}
}

// AcquireGroupLease takes the Lease of this name and renews it until ctx ends or release is called, which deletes it; held is false if another
// has it (https://kubernetes.io/docs/concepts/architecture/leases/).
func (c *Client) AcquireGroupLease(ctx context.Context, name string) (release func() error, held bool, err error) {
	give, held, err := c.hold(ctx, name, func(time.Time) {})
	return func() error { return give(false) }, held, err
}

// hold makes the owner's name anew for each call: two invocations in one process are two owners.
func (c *Client) hold(ctx context.Context, name string, hasten func(time.Time)) (
	release func(goesOn bool) error, held bool, err error,
) {
	l, err := c.acquire(ctx, name, "quiesce-"+rand.String(10))
	if err != nil {
		return nil, false, fmt.Errorf("take the lease of %s: %w", name, err)
	}
	if l == nil {
		return nil, false, nil
	}
	l.hasten = hasten
	l.listen()
	renewing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); l.renew(renewing) }()
	return func(goesOn bool) error { stop(); <-done; return l.release(ctx, goesOn) }, true, nil
}

// acquire creates the Lease, or takes over one that has expired; nil: another owner has it.
func (c *Client) acquire(ctx context.Context, name, owner string) (*lease, error) {
	l := &lease{Client: c, object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: leaseNamespace}}}
	l.sign(owner)
	err := l.create(ctx)
	if !apierrors.IsAlreadyExists(err) {
		return l, err
	}
	found, err := l.get(ctx)
	if apierrors.IsNotFound(err) {
		return c.acquire(ctx, name, owner) // given back between the two requests
	}
	if err != nil || !expired(found) {
		return nil, err
	}
	l.object = found
	l.sign(owner)
	err = l.update(ctx)
	if apierrors.IsConflict(err) {
		return nil, nil // another one was quicker
	}
	return l, err
}

func (l *lease) sign(owner string) {
	now, seconds := metav1.NowMicro(), int32(leaseDuration.Seconds())
	l.object.Spec = coordinationv1.LeaseSpec{
		HolderIdentity: &owner, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now,
	}
}

func expired(l *coordinationv1.Lease) bool {
	return l.Spec.HolderIdentity == nil || l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) > leaseDuration
}

// renew keeps the Lease until ctx ends. A failed renewal is followed by the next: the worst is that another invocation takes
// over, and evictions are safe to repeat.
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

// renewOnce renews the Lease, and sees what is on it.
func (l *lease) renewOnce(ctx context.Context) error {
	err := l.asItStands(ctx, l.stamp)
	if err == nil {
		l.listen()
	}
	return err
}

// asItStands does something with the Lease as it is now, if it is still ours. That it is another than was last seen may be our own
// doing, of a request whose answer was lost, or a deadline that was left on it.
func (l *lease) asItStands(ctx context.Context, do func(context.Context) error) error {
	err := do(ctx)
	if !apierrors.IsConflict(err) {
		return err
	}
	found, err := l.get(ctx)
	if err != nil || !l.sameOwner(found) {
		return err
	}
	l.object = found
	return do(ctx)
}

// listen looks for a deadline on the Lease. One that cannot be read is nobody's.
func (l *lease) listen() {
	if deadline, err := time.Parse(time.RFC3339Nano, l.object.Annotations[deadlineAnnotation]); err == nil {
		l.hasten(deadline)
	}
}

func (l *lease) stamp(ctx context.Context) error {
	now := metav1.NowMicro()
	l.object.Spec.RenewTime = &now
	return l.update(ctx)
}

func (l *lease) sameOwner(other *coordinationv1.Lease) bool {
	return other.Spec.HolderIdentity != nil && *other.Spec.HolderIdentity == *l.object.Spec.HolderIdentity
}

// release deletes the Lease, if it is still ours, on a context of its own; or hands it on, if there is a deadline on it that whoever
// goes on must know.
func (l *lease) release(ctx context.Context, goesOn bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	err := l.asItStands(ctx, func(ctx context.Context) error {
		if goesOn && l.object.Annotations[deadlineAnnotation] != "" {
			return l.handOn(ctx)
		}
		return l.remove(ctx)
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is another's by now
	}
	return fmt.Errorf("give back the lease of %s: %w", l.object.Name, err)
}

// handOn leaves the Lease to whoever takes it next.
func (l *lease) handOn(ctx context.Context) error {
	mine := l.object
	l.object = mine.DeepCopy()
	l.object.Spec.HolderIdentity = nil
	err := l.update(ctx)
	if err != nil {
		l.object = mine
	}
	return err
}

func (l *lease) remove(ctx context.Context) error {
	return l.coordination.Delete().Namespace(leaseNamespace).Resource("leases").Name(l.object.Name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &l.object.ResourceVersion}}).
		Do(ctx).Error()
}

func (l *lease) create(ctx context.Context) error {
	return l.coordination.Post().Namespace(leaseNamespace).Resource("leases").
		Body(l.object).Timeout(callTimeout).Do(ctx).Into(l.object)
}

func (l *lease) get(ctx context.Context) (*coordinationv1.Lease, error) {
	found := &coordinationv1.Lease{}
	return found, l.coordination.Get().Namespace(leaseNamespace).Resource("leases").Name(l.object.Name).
		Timeout(callTimeout).Do(ctx).Into(found)
}

func (l *lease) update(ctx context.Context) error {
	updated := &coordinationv1.Lease{}
	err := l.coordination.Put().Namespace(leaseNamespace).Resource("leases").Name(l.object.Name).
		Body(l.object).Timeout(callTimeout).Do(ctx).Into(updated)
	if err == nil {
		l.object = updated
	}
	return err
}
