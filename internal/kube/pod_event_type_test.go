package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/drain"
)

// That clients go on is no warning. The policy quiesce-events allows no other type with these reasons.
func TestToPodEvent_Type_FollowsTheReason(t *testing.T) {
	for reason, want := range map[drain.PodEventReason]string{
		drain.EvictionBlocked: corev1.EventTypeWarning, drain.EvictionHeld: corev1.EventTypeWarning, drain.EvictionRefused: corev1.EventTypeWarning,
		drain.ClientsPaused: corev1.EventTypeWarning, drain.ClientsResumed: corev1.EventTypeNormal,
	} {
		event := toPodEvent(drain.PodEvent{Pod: refNamed("db", "pooler-a", "u"), Reason: reason}, time.Now())
		require.Equal(t, want, event.Type, reason)
	}
}
