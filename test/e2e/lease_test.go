package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/kube"
	"quiesce/internal/termination"
	"quiesce/test/env"
)

// A renewal whose answer is lost has still changed the Lease. A holder that never renewed again would lose the Lease in the
// middle of its drain, and a second drain would start beside it.
func TestLease_ChangedByAnother_Renewed(t *testing.T) {
	s := &fixture{T: t, Env: sharedEnv(t), ctx: t.Context()}
	client, err := kube.New(s.Lab.Admin())
	require.NoError(t, err)
	const name = "i-0000000000000ea5e"
	lease, err := client.AcquireLease(s.ctx, name, termination.Acquisition{Shorten: func(time.Time) {}})
	require.NoError(t, err)
	require.NotNil(t, lease)
	leases := s.Lab.Client().CoordinationV1().Leases("quiesce")
	changed, err := leases.Patch(s.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"unseen":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)

	var renewed *coordinationv1.Lease
	s.until("the lease is renewed", func() (bool, error) {
		renewed, err = leases.Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && renewed.Spec.RenewTime.After(changed.Spec.RenewTime.Time), err
	})
	require.Equal(t, changed.Spec.HolderIdentity, renewed.Spec.HolderIdentity)
	require.NoError(t, lease.Release(termination.KeepNothing))
	_, err = leases.Get(s.ctx, name, metav1.GetOptions{})
	require.Error(t, err, "the Lease was released and deleted")
}

// After an outage that outlasts a Lease, another invocation holds it. The one before stops at its next renewal, and leaves the pods and the
// lifecycle action to it.
func TestLease_TakenOver_HolderStopsAndAnotherFinishes(t *testing.T) {
	p := newQueueFixture(t, 1, 2, 0)
	target := p.instances[0]
	pods := p.beginBlockedDrain(target)
	other := fmt.Appendf(nil, `{"spec":{"holderIdentity":"other","renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
	leases := p.Lab.Client().CoordinationV1().Leases("quiesce")
	_, err := leases.Patch(p.ctx, target.ID, types.MergePatchType, other, metav1.PatchOptions{})
	require.NoError(t, err)
	p.awaitLog("drain taken over by another invocation")
	p.awaitLog("drain incomplete, handed off to next invocation")
	lease, err := leases.Get(p.ctx, target.ID, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "other", *lease.Spec.HolderIdentity, "its release leaves the Lease alone")

	p.removePDB("web") // the other invocation crashes: its Lease expires
	p.awaitEmptyQueue()
	p.requireDrainedOnce(target, pods)
}

// isLeaseReleased reports whether no invocation holds the instance's Lease.
func (s *fixture) isLeaseReleased(i env.Instance) (bool, error) {
	lease, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Get(s.ctx, i.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && lease.Spec.HolderIdentity == nil, err
}
