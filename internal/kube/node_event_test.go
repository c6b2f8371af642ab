package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// The users of a namespace read its events. The function may write only those of nodes.
func TestRecordEvent_OtherNamespace_Forbidden(t *testing.T) {
	e := newLabEnv(t)
	event := toEvent(termination.NodeEvent{Reason: "Drained"}, drain.Node{Name: "node-c"}, time.Now())
	event.Namespace = e.namespace
	err := e.client.core.Post().Namespace(e.namespace).Resource("events").Body(event).Do(t.Context()).Error()
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}
