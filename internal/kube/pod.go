package kube

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

// cordonTaint is the taint of a cordoned node
// (https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/).
var cordonTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// toPod returns what the domain needs of a pod. The rest of the object can then be freed.
func toPod(p *corev1.Pod) drain.Pod {
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	return drain.Pod{
		Ref:             drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)},
		Labels:          p.Labels,
		Annotations:     p.Annotations,
		PriorityClass:   p.Spec.PriorityClassName,
		Controller:      controllerKind(p),
		Grace:           grace(p),
		Created:         p.CreationTimestamp.Time,
		Deleted:         deletionRequestedAt(p),
		Mirror:          mirror,
		Finished:        finished(p),
		ToleratesCordon: toleratesCordon(p),
		Claims:          claims(p),
		Finalizers:      p.Finalizers,
	}
}

// finished reports whether nothing runs in the pod and no more work remains for it. A terminating pod is not finished: its
// kubelet reports the end of the containers first and deletes the object after that. If the node ends in between, the object
// stays, and a StatefulSet creates no successor.
func finished(p *corev1.Pod) bool { return succeededOrFailed(p) && p.DeletionTimestamp == nil }

// keptByFinalizers reports whether only finalizers keep the pod. Its containers have ended, and the kubelet has released it: it
// deletes the object with a grace period of zero.
func keptByFinalizers(p *corev1.Pod) bool {
	released := p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	return released && len(p.Finalizers) > 0 && (succeededOrFailed(p) || allContainersEnded(p))
}

func succeededOrFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// allContainersEnded reports whether every container has ended. Kubelets before 1.27 do not change the phase of a pod that
// they stop.
func allContainersEnded(p *corev1.Pod) bool {
	runs := func(c corev1.ContainerStatus) bool { return c.State.Terminated == nil }
	return len(p.Status.ContainerStatuses) > 0 && !slices.ContainsFunc(p.Status.ContainerStatuses, runs)
}

func controllerKind(p *corev1.Pod) string {
	if owner := metav1.GetControllerOf(p); owner != nil {
		return owner.Kind
	}
	return ""
}

func grace(p *corev1.Pod) time.Duration {
	if p.Spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds * time.Second
	}
	return time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second
}

// deletionRequestedAt returns when the pod's deletion was requested; zero if it was not. The deletion timestamp is the end
// of the grace period (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/#System).
func deletionRequestedAt(p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil {
		return time.Time{}
	}
	requested := p.DeletionTimestamp.Time
	if p.DeletionGracePeriodSeconds != nil {
		requested = requested.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
	}
	return requested
}

func toleratesCordon(p *corev1.Pod) bool {
	for _, t := range p.Spec.Tolerations {
		if tolerates(t, cordonTaint) {
			return true
		}
	}
	return false
}

// tolerates reports whether a pod with this toleration tolerates the taint. An empty key with Exists tolerates every taint.
// An empty effect tolerates every effect
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Toleration).
func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect {
		return false
	}
	if t.Key == "" {
		return t.Operator == corev1.TolerationOpExists
	}
	return t.Key == taint.Key && (t.Operator == corev1.TolerationOpExists || t.Value == taint.Value)
}

// claims returns the names of the pod's PersistentVolumeClaims. The claim of a generic ephemeral volume is named after pod
// and volume (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming).
func claims(p *corev1.Pod) []string {
	var names []string
	for _, v := range p.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, p.Name+"-"+v.Name)
		}
	}
	return names
}
