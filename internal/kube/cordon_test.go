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

func TestNodesThatWeClosedAreFoundAndThoseOfAdminsAreNot(t *testing.T) {
	s := newLabEnv(t)
	ours, theirs := nodeNamed("ours-"+s.namespace), nodeNamed("theirs-"+s.namespace)
	require.NoError(t, s.AddNodes(t.Context(), ours, theirs))
	closed := []byte(`{"spec":{"unschedulable":true}}`)
	_, err := s.Client().CoreV1().Nodes().Patch(t.Context(), theirs.Name, types.MergePatchType, closed, metav1.PatchOptions{})
	require.NoError(t, err)
	cordoned, err := s.client.Cordon(t.Context(), drain.Node{Name: ours.Name}, "quiesce", time.Now())
	require.NoError(t, err)

	marks, err := s.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	at := slices.IndexFunc(marks, func(m termination.CordonedNode) bool { return m.Node.Name == ours.Name })
	require.GreaterOrEqual(t, at, 0)
	require.Equal(t, ours.InstanceID, marks[at].Node.InstanceID)
	require.Equal(t, "quiesce", marks[at].Hook)
	require.WithinDuration(t, cordoned, marks[at].CordonedAt, time.Second)
	require.False(t, slices.ContainsFunc(marks, func(m termination.CordonedNode) bool { return m.Node.Name == theirs.Name }))

	isOurs, err := s.client.Restore(t.Context(), drain.Node{Name: ours.Name}, "")
	require.NoError(t, err)
	require.False(t, isOurs, "it is closed for another hook")
	marks, err = s.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(marks, func(m termination.CordonedNode) bool { return m.Node.Name == ours.Name }))
	isOurs, err = s.client.Restore(t.Context(), drain.Node{Name: ours.Name}, "quiesce")
	require.NoError(t, err)
	require.True(t, isOurs)
	marks, err = s.client.CordonedNodes(t.Context())
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(marks, func(m termination.CordonedNode) bool { return m.Node.Name == ours.Name }))
}
