package kube

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestALeaseIsHeldByOneUntilItIsReleasedAndThenGone(t *testing.T) {
	s := newLabEnv(t)
	release, held, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	_, again, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.False(t, again, "not even by the same process")

	require.NoError(t, release())
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Get(t.Context(), s.namespace, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

func TestALeaseIsReleasedThoughItsContextHasEnded(t *testing.T) {
	s := newLabEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, held, err := s.client.AcquireGroupLease(ctx, s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	cancel()
	require.NoError(t, release())
	release, held, err = s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, release())
}

// A sweep that does not see who owns what calls for drains that are under way; one that takes an expired lease for an owner leaves
// a crashed drain to nobody.
func TestTheLeasesThatAreHeldAreListed(t *testing.T) {
	s := newLabEnv(t)
	release, held, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	crashed, long := "crashed-"+s.namespace, metav1.NewMicroTime(time.Now().Add(-leaseDuration-time.Second))
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: crashed}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &crashed, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	owned, err := s.client.HeldLeases(t.Context())
	require.NoError(t, err)
	require.Contains(t, owned, s.namespace)
	require.NotContains(t, owned, crashed)
	require.NoError(t, release())
	owned, err = s.client.HeldLeases(t.Context())
	require.NoError(t, err)
	require.NotContains(t, owned, s.namespace)
}

// Whoever drains learns of a notice that came for its instance, from its lease; and can give that back all the same.
func TestADeadlineThatIsLeftOnALeaseIsHeardByItsOwnerAtTheNextRenewal(t *testing.T) {
	s := newLabEnv(t)
	deadline, heard := time.Now().Add(time.Minute), make(chan time.Time, 10)
	l, err := s.client.acquire(t.Context(), s.namespace, "owner")
	require.NoError(t, err)
	l.hasten = func(deadline time.Time) { heard <- deadline }

	require.NoError(t, l.renewOnce(t.Context()))
	require.Empty(t, heard)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "the notice comes again")
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)

	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline.Add(time.Second)))
	require.NoError(t, l.release(t.Context(), false))
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Get(t.Context(), s.namespace, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "not only when it expires")
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "there is nobody to be told")
}

func TestADeadlineOnALeaseIsHeardByWhoeverGoesOn(t *testing.T) {
	s := newLabEnv(t)
	crashed, err := s.client.acquire(t.Context(), s.namespace, "crashed")
	require.NoError(t, err)
	deadline := time.Now().Add(time.Minute)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	found, err := crashed.get(t.Context())
	require.NoError(t, err)
	long := metav1.NewMicroTime(time.Now().Add(-leaseDuration - time.Second))
	found.Spec.RenewTime = &long
	crashed.object = found
	require.NoError(t, crashed.update(t.Context()))

	heard := make(chan time.Time, 10)
	release, owned, err := s.client.AcquireLease(t.Context(), s.namespace, func(deadline time.Time) { heard <- deadline })
	require.NoError(t, err)
	require.True(t, owned)
	require.WithinDuration(t, deadline, <-heard, 0)

	require.NoError(t, release(true))
	release, owned, err = s.client.AcquireLease(t.Context(), s.namespace, func(deadline time.Time) { heard <- deadline })
	require.NoError(t, err)
	require.True(t, owned, "it was handed on")
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, release(false))
}
