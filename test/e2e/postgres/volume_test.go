package postgres

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env/patroni"
)

// The only member of a cluster is evicted, and its volume follows it. kube-controller-manager detaches it when the kubelet has unmounted it.
// The instance lives until then: otherwise Kubernetes would wait six minutes before it attaches the volume elsewhere.
func TestVolume_OnlyMember_DetachedBeforeCompletion(t *testing.T) {
	s := newSmall(t)
	c := s.deploy(patroni.Options{Namespace: "volume", Version: "4.0", Members: 1, Claim: patroni.EBSClaim})[0]
	_, err := c.Query(s.ctx, "CREATE TABLE kept AS SELECT 42 AS answer")
	require.NoError(t, err)
	before, err := c.Leader(s.ctx)
	require.NoError(t, err)
	target := s.instanceOf(before.Spec.NodeName)
	moved, err := c.WatchVolume(s.ctx)
	require.NoError(t, err)
	volume := before.Namespace // as in the cluster's manifest

	function := s.function()
	var report termination.Report
	s.invoke(function, shared.AWS.Terminate(target.ID)[0].Body, &report)
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	at := slices.IndexFunc(report.Pods, func(p drain.PodReport) bool { return p.Name == before.Name })
	require.GreaterOrEqual(t, at, 0, "%+v", report.Pods)
	move, err := moved()
	require.NoError(t, err)
	completed := shared.AWS.Completions(target.ID)
	require.Len(t, completed, 1)
	// The driver's own time counts. The function and this test watch the attachment at once, and either may hear first that it is gone. The
	// function says nothing of it if that is before the pod is gone.
	detached := shared.Lab.VolumeDetached(volume, before.Spec.NodeName)
	require.False(t, detached.IsZero())
	require.True(t, completed[0].At.After(detached), "completed at %s, detached at %s", completed[0].At, detached)
	require.NoError(t, shared.AwaitTermination(s.ctx, target))

	pods, err := c.AwaitReady(s.ctx)
	require.NoError(t, err)
	require.NotEqual(t, before.Spec.NodeName, pods[0].Spec.NodeName)
	leader, err := c.AwaitLeader(s.ctx, "")
	require.NoError(t, err)
	require.Equal(t, pods[0].Name, leader)
	rows, err := c.Query(s.ctx, "SELECT answer FROM kept")
	require.NoError(t, err)
	require.Equal(t, "42", string(rows[0][0]))
	evicted := report.Pods[at].EvictedAt
	t.Logf("after its eviction: detached %s, attached %s", move.Detached.Sub(evicted), move.Attached.Sub(evicted))
}
