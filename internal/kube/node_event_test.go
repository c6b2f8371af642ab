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

func TestDescribeNodeTellsWhatWasToldOfItAndNotOfItsNamesake(t *testing.T) {
	s := newLabEnv(t)
	node, err := s.client.NodeByName(t.Context(), "node-c")
	require.NoError(t, err)
	pod := &drain.Ref{Namespace: "db", Name: "pooler-0", UID: "17"}
	require.NoError(t, s.client.RecordEvent(t.Context(), *node, termination.NodeEvent{Reason: "Drained", Message: "all of them"}))
	require.NoError(t, s.client.RecordEvent(t.Context(), *node, termination.NodeEvent{Reason: "PodsForced", Message: "one of them", Warning: true, Pod: pod}))
	earlier := drain.Node{Name: node.Name, UID: "another"}
	require.NoError(t, s.client.RecordEvent(t.Context(), earlier, termination.NodeEvent{Reason: "Drained", Message: "long ago"}))

	text, err := s.Kubectl(t.Context(), "describe", "node", node.Name)
	require.NoError(t, err)
	require.Regexp(t, `Normal +Drained +\S+ +quiesce +all of them`, text)
	require.Regexp(t, `Warning +PodsForced +\S+ +quiesce +one of them`, text)
	require.NotContains(t, text, "long ago")

	events, err := s.Client().CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{
		FieldSelector: "reason=PodsForced",
	})
	require.NoError(t, err)
	require.Equal(t, "db/pooler-0", events.Items[0].Related.Namespace+"/"+events.Items[0].Related.Name)
}

// Events of a namespace are what its people look at. None but nodes' are the function's to write.
func TestEventsOfOtherNamespacesAreNotOursToWrite(t *testing.T) {
	s := newLabEnv(t)
	event := toEvent(termination.NodeEvent{Reason: "Drained"}, drain.Node{Name: "node-c"}, time.Now())
	event.Namespace = s.namespace
	err := s.client.core.Post().Namespace(s.namespace).Resource("events").Body(event).Do(t.Context()).Error()
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}
