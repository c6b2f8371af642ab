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

// eventSource is who tells, in `kubectl describe node`'s column From.
const eventSource = "quiesce"

// RecordEvent puts an event on the node: one request, and no more if that fails. Events of nodes, which have no namespace, are in the one
// called default, and describe looks there for the node's UID (k8s.io/kubectl/pkg/describe). One of core/v1 is the same object as one
// of events.k8s.io/v1
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/), and asks for no client of its own.
func (c *Client) RecordEvent(ctx context.Context, node drain.Node, e termination.NodeEvent) error {
	err := c.core.Post().Namespace(metav1.NamespaceDefault).Resource("events").
		Body(toEvent(e, node, time.Now())).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("tell of %s on node %s: %w", e.Reason, node.Name, err)
	}
	return nil
}

func toEvent(e termination.NodeEvent, node drain.Node, now time.Time) *corev1.Event {
	kind, at := corev1.EventTypeNormal, metav1.NewTime(now)
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		// Events are named so by everybody: by what they are of, and when.
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", node.Name, now.UnixNano()), Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: types.UID(node.UID)},
		Related:        referenceTo(e.Pod),
		Type:           kind, Reason: e.Reason, Message: e.Message,
		Source:         corev1.EventSource{Component: eventSource},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

func referenceTo(pod *drain.Ref) *corev1.ObjectReference {
	if pod == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)}
}
