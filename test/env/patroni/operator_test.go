package patroni

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// One cordon is answered once, and one from before the operator began is not.
func TestNewlyCordoned_SeveralLooks_OnlyChangesSeen(t *testing.T) {
	node := func(name string, cordoned bool) corev1.Node {
		n := corev1.Node{Spec: corev1.NodeSpec{Unschedulable: cordoned}}
		n.Name = name
		return n
	}
	first := unschedulable([]corev1.Node{node("a", true), node("b", false), node("c", false)})
	require.Empty(t, newlyCordoned(nil, first))
	second := unschedulable([]corev1.Node{node("a", true), node("b", true), node("c", true), node("new", true)})
	require.Equal(t, []string{"b", "c"}, newlyCordoned(first, second))
	require.Empty(t, newlyCordoned(second, second))
	require.Equal(t, []string{"a"}, newlyCordoned(map[string]bool{"a": false}, second))
}
