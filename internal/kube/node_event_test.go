package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestRecordEvent_DescribeNode_ShowsOnlyItsUID(t *testing.T) {
	e := newLabEnv(t)
	node, err := e.client.NodeByName(t.Context(), "node-c")
	require.NoError(t, err)
	pod := &drain.Ref{Namespace: "db", Name: "pooler-0", UID: "17"}
	require.NoError(t, e.client.RecordEvent(t.Context(), *node, termination.NodeEvent{Reason: "Drained", Message: "all pods"}))
	require.NoError(t, e.client.RecordEvent(t.Context(), *node, termination.NodeEvent{Reason: "PodsForced", Message: "one pod", Warning: true, Pod: pod}))
	earlier := drain.Node{Name: node.Name, UID: "another"}
	require.NoError(t, e.client.RecordEvent(t.Context(), earlier, termination.NodeEvent{Reason: "Drained", Message: "long ago"}))

	text, err := e.Kubectl(t.Context(), "describe", "node", node.Name)
	require.NoError(t, err)
	require.Regexp(t, `Normal +Drained +\S+ +quiesce +all pods`, text)
	require.Regexp(t, `Warning +PodsForced +\S+ +quiesce +one pod`, text)
	require.NotContains(t, text, "long ago")

	events, err := e.Client().CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{
		FieldSelector: "reason=PodsForced",
	})
	require.NoError(t, err)
	require.Equal(t, "db/pooler-0", events.Items[0].Related.Namespace+"/"+events.Items[0].Related.Name)
}
