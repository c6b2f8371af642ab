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
	s := setScene(t)
	release, held, err := s.client.Hold(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	_, again, err := s.client.Hold(t.Context(), s.namespace)
	require.NoError(t, err)
	require.False(t, again, "not even by the same process")

	require.NoError(t, release())
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Get(t.Context(), s.namespace, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

func TestALeaseIsReleasedThoughItsContextHasEnded(t *testing.T) {
	s := setScene(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, held, err := s.client.Hold(ctx, s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	cancel()
	require.NoError(t, release())
	release, held, err = s.client.Hold(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, release())
}

// A sweep that does not see who owns what calls for drains that are under way; one that takes an expired lease for an owner leaves
// a crashed drain to nobody.
func TestTheLeasesThatAreHeldAreListed(t *testing.T) {
	s := setScene(t)
	release, held, err := s.client.Hold(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	crashed, long := "crashed-"+s.namespace, metav1.NewMicroTime(time.Now().Add(-leaseDuration-time.Second))
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: crashed}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &crashed, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	owned, err := s.client.Owned(t.Context())
	require.NoError(t, err)
	require.Contains(t, owned, s.namespace)
	require.NotContains(t, owned, crashed)
	require.NoError(t, release())
	owned, err = s.client.Owned(t.Context())
	require.NoError(t, err)
	require.NotContains(t, owned, s.namespace)
}
