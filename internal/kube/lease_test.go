package kube

import (
	"context"
	"fmt"
	"quiesce/internal/termination"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGroupLease_Released_IsDeleted(t *testing.T) {
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

func TestGroupLease_ContextEnded_StillReleased(t *testing.T) {
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

// If a sweep does not see a held Lease, it resends events of running drains. If it counts an expired Lease as held, a crashed drain is
// not resumed.
func TestLeases_HeldAndExpired_AreListed(t *testing.T) {
	s := newLabEnv(t)
	release, held, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	crashed, long := "crashed-"+s.namespace, metav1.NewMicroTime(time.Now().Add(-leaseDuration-time.Second))
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: crashed}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &crashed, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	leases, err := s.client.Leases(t.Context())
	require.NoError(t, err)
	require.Contains(t, leases, termination.LeaseInfo{Name: s.namespace, Held: true})
	require.Contains(t, leases, termination.LeaseInfo{Name: crashed})
	require.NoError(t, release())
	leases, err = s.client.Leases(t.Context())
	require.NoError(t, err)
	require.NotContains(t, leases, termination.LeaseInfo{Name: s.namespace, Held: true})

	require.NoError(t, s.client.DeleteFreeLease(t.Context(), crashed))
	require.NoError(t, s.client.DeleteFreeLease(t.Context(), crashed), "it is gone already")
	leases, err = s.client.Leases(t.Context())
	require.NoError(t, err)
	require.NotContains(t, leases, termination.LeaseInfo{Name: crashed})
}

func (s *labEnv) lease(name string) (*coordinationv1.Lease, error) {
	return s.Client().CoordinationV1().Leases(leaseNamespace).Get(s.Context(), name, metav1.GetOptions{})
}

// acquired is a Lease that this test holds, without renewals beside those that it makes itself.
func (s *labEnv) acquired(name string, shorten func(time.Time)) *lease {
	s.Helper()
	l, err := s.client.hold(s.Context(), name, shorten)
	require.NoError(s, err)
	require.NotNil(s, l)
	return l
}

// expire ages the Lease, as if its holder had crashed.
func (s *labEnv) expire(l *lease) {
	s.Helper()
	l.stop()
	require.NoError(s, l.write(s.Context(), func(next *coordinationv1.Lease) {
		long := metav1.NewMicroTime(time.Now().Add(-leaseDuration - time.Second))
		next.Spec.RenewTime = &long
	}))
}

func ignore(time.Time) {}

func TestShortenDeadline_LeaseHeld_HolderReadsItAtItsNextRenewal(t *testing.T) {
	s := newLabEnv(t)
	deadline, heard := time.Now().Add(time.Minute), make(chan time.Time, 10)
	l := s.acquired(s.namespace, func(deadline time.Time) { heard <- deadline })

	require.NoError(t, l.renewOnce(t.Context()))
	require.Empty(t, heard)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "the event is delivered again")
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)

	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline.Add(time.Second)))
	require.NoError(t, l.Release(termination.KeepNothing))
	_, err := s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err), "not only when it expires")
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "no invocation is to be told")
}

func TestShortenDeadline_HolderCrashes_NextHolderReadsIt(t *testing.T) {
	s := newLabEnv(t)
	crashed := s.acquired(s.namespace, ignore)
	deadline := time.Now().Add(time.Minute)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	s.expire(crashed)

	heard := make(chan time.Time, 10)
	hear := func(deadline time.Time) { heard <- deadline }
	lease, err := s.client.AcquireLease(t.Context(), s.namespace, hear)
	require.NoError(t, err)
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, lease.Release(termination.KeepAll))

	lease, err = s.client.AcquireLease(t.Context(), s.namespace, hear)
	require.NoError(t, err)
	require.NotNil(t, lease, "it was handed off")
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, lease.Release(termination.KeepRecords))
	_, err = s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err), "a deadline alone is of this drain only")
}

func TestLease_HeldByAnother_IsNil(t *testing.T) {
	s := newLabEnv(t)
	held := s.acquired(s.namespace, ignore)
	lease, err := s.client.AcquireLease(t.Context(), s.namespace, ignore)
	require.NoError(t, err)
	require.True(t, lease == nil, "a nil interface, not a nil pointer in one")
	require.NoError(t, held.Release(termination.KeepNothing))
}

func TestLease_Records_OutliveCrashAndHandOff(t *testing.T) {
	s := newLabEnv(t)
	crashed := s.acquired(s.namespace, ignore)
	require.NoError(t, crashed.SetRecord(t.Context(), "uid-a", "paused"))
	require.NoError(t, crashed.SetRecord(t.Context(), "uid-b", "paused"))
	require.Equal(t, "paused", crashed.Record("uid-a"))
	require.NoError(t, crashed.renewOnce(t.Context()), "renewals and records do not fight")
	s.expire(crashed)

	next := s.acquired(s.namespace, ignore)
	require.Equal(t, "paused", next.Record("uid-a"))
	require.ErrorIs(t, crashed.SetRecord(t.Context(), "uid-c", "paused"), errLeaseLost)
	require.NoError(t, crashed.Release(termination.KeepNothing), "it is another's")
	require.NoError(t, next.SetRecord(t.Context(), "uid-b", ""))
	require.NoError(t, next.Release(termination.KeepRecords))
	left, err := s.lease(s.namespace)
	require.NoError(t, err)
	require.Equal(t, map[string]string{recordAnnotation + "uid-a": "paused"}, left.Annotations)
	require.Nil(t, left.Spec.HolderIdentity)

	last := s.acquired(s.namespace, ignore)
	require.Equal(t, "paused", last.Record("uid-a"))
	require.NoError(t, last.Release(termination.KeepNothing))
	_, err = s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err))
}

// A record is written while a renewal, or a shorter deadline, changes the Lease.
func TestLease_SetRecordDuringOtherWrites_NothingIsLost(t *testing.T) {
	s := newLabEnv(t)
	l := s.acquired(s.namespace, ignore)
	deadline := time.Now().Add(time.Minute)
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() { require.NoError(t, l.SetRecord(t.Context(), fmt.Sprint("uid-", n), "paused")) })
		group.Go(func() { require.NoError(t, l.renewOnce(t.Context())) })
	}
	group.Wait()
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	require.NoError(t, l.SetRecord(t.Context(), "uid-last", "paused"))
	left, err := s.lease(s.namespace)
	require.NoError(t, err)
	require.Len(t, left.Annotations, 10)
	require.NoError(t, l.Release(termination.KeepNothing))
}

// An escort has seconds. It does not wait for a renewal that hangs.
func TestSetRecord_AnotherRequestHangs_EndsWithItsContext(t *testing.T) {
	l := &lease{writing: make(chan struct{}, 1), object: &coordinationv1.Lease{}}
	l.writing <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.SetRecord(ctx, "uid-a", "paused"), context.Canceled)
	require.Empty(t, l.Record("uid-a"))
}
