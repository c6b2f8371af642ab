package kube

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestCordonedNodes_OthersCordoned_FindsOnlyOurs(t *testing.T) {
	e := newLabEnv(t)
	ours, theirs := nodeNamed("ours-"+e.namespace), nodeNamed("theirs-"+e.namespace)
	require.NoError(t, e.AddNodes(t.Context(), ours, theirs))
	cordon := []byte(`{"spec":{"unschedulable":true}}`)
	_, err := e.Client().CoreV1().Nodes().Patch(t.Context(), theirs.Name, types.MergePatchType, cordon, metav1.PatchOptions{})
	require.NoError(t, err)
	cordoned, err := e.client.Cordon(t.Context(), drain.Node{Name: ours.Name}, "quiesce", time.Now())
	require.NoError(t, err)

	found, err := e.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	at := slices.IndexFunc(found, func(n termination.CordonedNode) bool { return n.Node.Name == ours.Name })
	require.GreaterOrEqual(t, at, 0)
	require.Equal(t, ours.InstanceID, found[at].Node.InstanceID)
	require.Equal(t, "quiesce", found[at].Hook)
	require.WithinDuration(t, cordoned, found[at].CordonedAt, time.Second)
	require.False(t, slices.ContainsFunc(found, func(n termination.CordonedNode) bool { return n.Node.Name == theirs.Name }))

	isOurs, err := e.client.Restore(t.Context(), drain.Node{Name: ours.Name}, "")
	require.NoError(t, err)
	require.False(t, isOurs, "another hook's cordon")
	found, err = e.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(found, func(n termination.CordonedNode) bool { return n.Node.Name == ours.Name }))
	isOurs, err = e.client.Restore(t.Context(), drain.Node{Name: ours.Name}, "quiesce")
	require.NoError(t, err)
	require.True(t, isOurs)
	found, err = e.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(found, func(n termination.CordonedNode) bool { return n.Node.Name == ours.Name }))
}
