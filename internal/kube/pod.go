package kube

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// What is kept of a pod is bounded, whatever its owner writes.
const (
	// maxLabelBytes bounds the labels of one pod. Of a pod with more, none are kept: a part of them could match a selector that
	// the pod does not. Sixteen kilobytes are some 200 labels.
	maxLabelBytes = 16 << 10
	// maxLabels bounds their number for the same reason: a map of thousands of short labels needs many times their bytes. Charts set ten.
	maxLabels = 256
	// maxAnnotationValue bounds the value of an annotation that is kept. The values with a meaning are far shorter.
	maxAnnotationValue = 256
	// maxStatusAnnotation bounds the annotation in which Patroni writes a member's status, in JSON. It has some 300 bytes.
	maxStatusAnnotation = 4 << 10
	// maxClaims bounds the claims of one pod. An instance has at most 128 volumes
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html).
	maxClaims = 128
	// maxFinalizers bounds the finalizers of one pod: they are only named in reports.
	maxFinalizers = 8
	// maxSeconds bounds a time that a pod's owner writes in seconds, such as the grace period. The API accepts numbers that
	// overflow a time.Duration; three years are beyond every deadline.
	maxSeconds = 1e8
)

// keptAnnotations are the annotations of pods that quiesce reads.
var keptAnnotations = append(drain.Annotations(), escort.Annotation, escort.DatabaseAnnotation, escort.CloudNativePGVersion)

// podFields are the fields of a pod that a drain reads. The numbers are those of
// https://github.com/kubernetes/api/blob/master/core/v1/generated.proto.
var podFields = wireFields{
	objectMetadata: {1: nil, 3: nil, 5: nil, 8: nil, 9: nil, 10: nil, 11: nil, 12: nil, 13: nil, 14: nil},
	2: { // spec
		1:  {1: nil, 2: {10: {1: nil}, 29: {}}}, // volumes: name; claim: name; ephemeral
		4:  nil,                                 // terminationGracePeriodSeconds
		10: nil,                                 // nodeName
		24: nil,                                 // priorityClassName
	},
	3: { // status
		1: nil,                        // phase
		2: {1: nil, 2: nil},           // conditions: type, status
		8: {2: {1: {}, 2: {}, 3: {}}}, // containerStatuses: which state
	},
}

// seenPod is a pod as the watch sees it.
type seenPod struct {
	drain.Pod
	ready           bool
	keptByFinalizer bool // only finalizers keep it
	labelsUnknown   bool // it has more labels than are kept: it matches no selector
}

// decodePod decodes what a drain needs of a pod. With only its metadata, its grace period is the default one, and it may have
// finished.
func decodePod(object []byte) (seenPod, error) {
	var p corev1.Pod
	if err := decodeKept(object, podFields, &p); err != nil {
		return seenPod{}, err
	}
	return toSeenPod(&p), nil
}

func toSeenPod(p *corev1.Pod) seenPod {
	pod := seenPod{Pod: toPod(p), ready: isReady(p), keptByFinalizer: keptByFinalizers(p)}
	pod.labelsUnknown = pod.Labels == nil && len(p.Labels) > 0
	return pod
}

// toPod returns what the domain needs of a pod. The rest of the object can then be freed.
func toPod(p *corev1.Pod) drain.Pod {
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	owner := controllerRef(p)
	return drain.Pod{
		Ref:            drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)},
		Labels:         boundedLabels(p.Labels),
		Annotations:    annotationsOf(p),
		PriorityClass:  p.Spec.PriorityClassName,
		Controller:     owner.Kind,
		ControllerName: owner.Name,
		ControllerUID:  string(owner.UID),
		Grace:          grace(p),
		Created:        p.CreationTimestamp.Time,
		Deleted:        deletionRequestedAt(p),
		StopsBy:        stopsBy(p),
		Mirror:         mirror,
		Finished:       finished(p),
		Claims:         claims(p),
		Finalizers:     boundedFinalizers(p.Finalizers),
	}
}

// boundedLabels returns the labels, or none if they are too large.
func boundedLabels(labels map[string]string) map[string]string {
	size := 0
	for key, value := range labels {
		size += len(key) + len(value)
	}
	if size > maxLabelBytes || len(labels) > maxLabels {
		return nil
	}
	return labels
}

// annotationsOf returns the annotations that quiesce reads.
func annotationsOf(p *corev1.Pod) map[string]string {
	var kept map[string]string
	for _, key := range keptAnnotations {
		if value, annotated := p.Annotations[key]; annotated {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = strings.Clone(value[:min(len(value), maxAnnotationValue)])
		}
	}
	if status := p.Annotations[escort.PatroniStatus]; strings.HasPrefix(status, "{") && len(status) <= maxStatusAnnotation {
		if kept == nil {
			kept = map[string]string{}
		}
		kept[escort.PatroniStatus] = strings.Clone(status)
	}
	return kept
}

// boundedFinalizers returns the first finalizers. The API server checks that each is a name.
func boundedFinalizers(all []string) []string {
	return slices.Clone(all[:min(len(all), maxFinalizers)])
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

// controllerRef returns the owner that controls the pod. The API server checks neither name nor UID of an owner, and both
// become parts of other names. An owner with a name or a UID that no object has is none that can be read.
func controllerRef(p *corev1.Pod) metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(p)
	switch {
	case owner == nil || len(owner.Kind) > validation.DNS1123SubdomainMaxLength:
		return metav1.OwnerReference{}
	case !isName(owner.Name) || !isUID(string(owner.UID)):
		return metav1.OwnerReference{Kind: owner.Kind}
	}
	return *owner
}

// isName reports whether the API server accepts this name for objects of the usual kinds.
func isName(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// uuidLength is the length of a UUID in text.
const uuidLength = 36

// isUID reports whether this can be a UID that the API server has given: a UUID, which is a DNS label too.
func isUID(uid string) bool {
	return len(uid) <= uuidLength && len(validation.IsDNS1123Label(uid)) == 0
}

func grace(p *corev1.Pod) time.Duration {
	if p.Spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds * time.Second
	}
	return seconds(*p.Spec.TerminationGracePeriodSeconds)
}

// seconds returns a time that a tenant wrote in seconds, within bounds.
func seconds(n int64) time.Duration { return time.Duration(min(max(n, 0), maxSeconds)) * time.Second }

// deletionRequestedAt returns when the pod's deletion was requested; zero if it was not. The deletion timestamp is the end
// of the grace period (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/#System).
func deletionRequestedAt(p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil {
		return time.Time{}
	}
	requested := p.DeletionTimestamp.Time
	if p.DeletionGracePeriodSeconds != nil {
		requested = requested.Add(-seconds(*p.DeletionGracePeriodSeconds))
	}
	return requested
}

// stopsBy returns when the pod's grace period ends; zero if its deletion was not requested.
func stopsBy(p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil {
		return time.Time{}
	}
	return p.DeletionTimestamp.Time
}

// claims returns the names of the pod's PersistentVolumeClaims. The claim of a generic ephemeral volume is named after pod
// and volume (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming). The API server does
// not check the names in a pod, so one that no claim can have is skipped.
func claims(p *corev1.Pod) []string {
	var names []string
	for _, v := range p.Spec.Volumes {
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = p.Name + "-" + v.Name
		}
		if isName(name) && len(names) < maxClaims {
			names = append(names, name)
		}
	}
	return names
}
