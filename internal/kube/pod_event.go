package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

const (
	// podEventRetries is how often a request is repeated that the server throttles. Where many drains begin together, the first may be.
	// More would load a server that asks for less.
	podEventRetries = 2
	// maxEventName is the longest name of an object
	// (https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names).
	maxEventName = 253
	// eventHashBytes is how much of a hash is part of an event's name. Few pods of a namespace have events within the hour that they are
	// kept.
	eventHashBytes = 8
)

// RecordPodEvent creates a Kubernetes event about the pod, in its namespace. Its name tells the pod, the reason and the termination from
// others. So each invocation may create it, and it appears once.
func (c *Client) RecordPodEvent(ctx context.Context, e drain.PodEvent) error {
	err := c.core.Post().Namespace(e.Pod.Namespace).Resource("events").
		Body(toPodEvent(e, time.Now())).MaxRetries(podEventRetries).Timeout(callTimeout).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create event %s for pod %s: %w", e.Reason, e.Pod, bounded(err))
	}
	return nil
}

func toPodEvent(e drain.PodEvent, now time.Time) *corev1.Event {
	event := newEvent(metav1.ObjectMeta{Name: podEventName(e), Namespace: e.Pod.Namespace}, now)
	event.InvolvedObject = *referenceTo(&e.Pod)
	event.Type, event.Reason, event.Message = corev1.EventTypeWarning, string(e.Reason), e.Message
	if e.Reason == drain.ClientsResumed {
		event.Type = corev1.EventTypeNormal
	}
	return event
}

// podEventName returns the same name for the same pod, reason and termination.
func podEventName(e drain.PodEvent) string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", e.Pod.UID, e.Reason, e.Began.UnixNano()))
	suffix := fmt.Sprintf(".%x", hash[:eventHashBytes])
	prefix := e.Pod.Name[:min(len(e.Pod.Name), maxEventName-len(suffix))]
	return strings.TrimRight(prefix, ".-") + suffix
}
