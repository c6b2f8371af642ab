package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/kube"
	"quiesce/test/env"
)

// A renewal whose answer is lost has still changed the Lease. A holder that never renewed again would lose the Lease in the
// middle of its drain, and a second drain would start beside it.
func TestLease_ChangedByAnother_Renewed(t *testing.T) {
	s := &fixture{T: t, Env: sharedEnv(t), ctx: t.Context()}
	client, err := kube.New(s.Lab.Admin())
	require.NoError(t, err)
	const name = "i-0000000000000ea5e"
	release, owned, err := client.AcquireLease(s.ctx, name, func(time.Time) {})
	require.NoError(t, err)
	require.True(t, owned)
	leases := s.Lab.Client().CoordinationV1().Leases("quiesce")
	changed, err := leases.Patch(s.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"unseen":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)

	var renewed *coordinationv1.Lease
	s.until("the lease is renewed", func() (bool, error) {
		renewed, err = leases.Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && renewed.Spec.RenewTime.After(changed.Spec.RenewTime.Time), err
	})
	require.Equal(t, changed.Spec.HolderIdentity, renewed.Spec.HolderIdentity)
	require.NoError(t, release(false))
	_, err = leases.Get(s.ctx, name, metav1.GetOptions{})
	require.Error(t, err, "it was given back")
}

// isLeaseDeleted reports whether the instance has no Lease.
func (s *fixture) isLeaseDeleted(i env.Instance) (bool, error) {
	_, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Get(s.ctx, i.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return false, err
}
