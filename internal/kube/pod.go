package kube

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
)

// cordonTaint is what a cordoned node keeps pods away with
// (https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/).
var cordonTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// toPod tells the domain what it needs of a pod, and lets go of the rest.
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

// finished: nothing runs in the pod and nothing more will be done about it. Of a terminating pod the kubelet says first that
// its containers have ended and only then lets go of it; a node that goes in between leaves the object behind, and a
// StatefulSet without its successor.
func finished(p *corev1.Pod) bool { return succeededOrFailed(p) && p.DeletionTimestamp == nil }

// keptByFinalizers: the kubelet has stopped the pod and let go of it, which is to delete it with a grace period of zero, and finalizers
// keep it.
func keptByFinalizers(p *corev1.Pod) bool {
	letGo := p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	return letGo && len(p.Finalizers) > 0 && (succeededOrFailed(p) || allContainersEnded(p))
}

func succeededOrFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// allContainersEnded: kubelets before 1.27 leave the phase of a pod that they stop as it was.
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

// deletionRequestedAt is when the pod's termination was asked for: its deletion timestamp is when its grace ends
// (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/#System).
func deletionRequestedAt(p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil {
		return time.Time{}
	}
	asked := p.DeletionTimestamp.Time
	if p.DeletionGracePeriodSeconds != nil {
		asked = asked.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
	}
	return asked
}

func toleratesCordon(p *corev1.Pod) bool {
	for _, t := range p.Spec.Tolerations {
		if tolerates(t, cordonTaint) {
			return true
		}
	}
	return false
}

// tolerates: an empty key with Exists tolerates every taint, an empty effect tolerates every effect
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

// claims are the names of the pod's PersistentVolumeClaims; a generic ephemeral volume's claim is called after pod and volume
// (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming).
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
