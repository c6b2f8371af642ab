package kube

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
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
