package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// eventSource is the value in the column From of `kubectl describe node`.
const eventSource = "quiesce"

// RecordEvent creates a Kubernetes event for the node, with one request and no retry. Nodes have no namespace. Their events
// are in the namespace default, where `kubectl describe` looks for the node's UID (k8s.io/kubectl/pkg/describe). An event of
// core/v1 is the same object as one of events.k8s.io/v1
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/), and needs no additional client.
func (c *Client) RecordEvent(ctx context.Context, node drain.Node, e termination.NodeEvent) error {
	err := c.core.Post().Namespace(metav1.NamespaceDefault).Resource("events").
		Body(toEvent(e, node, time.Now())).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("create event %s for node %s: %w", e.Reason, node.Name, err)
	}
	return nil
}

func toEvent(e termination.NodeEvent, node drain.Node, now time.Time) *corev1.Event {
	// client-go's recorder uses the same form of name: the object and the time.
	event := newEvent(metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", node.Name, now.UnixNano()), Namespace: metav1.NamespaceDefault}, now)
	event.InvolvedObject = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: types.UID(node.UID)}
	event.Related, event.Type, event.Reason, event.Message = referenceTo(e.Pod), corev1.EventTypeNormal, e.Reason, e.Message
	if e.Warning {
		event.Type = corev1.EventTypeWarning
	}
	return event
}

// newEvent returns an event of quiesce that happened once.
func newEvent(meta metav1.ObjectMeta, now time.Time) *corev1.Event {
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta: meta, Source: corev1.EventSource{Component: eventSource}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

func referenceTo(pod *drain.Ref) *corev1.ObjectReference {
	if pod == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)}
}
