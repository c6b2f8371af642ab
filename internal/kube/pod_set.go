package kube

import (
	"hash/maphash"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// maxFinishedNamed is how many finished pods are kept by name. The others are only counted.
	maxFinishedNamed = 20
	// maxFinishedCounted bounds what is kept to count them. Kubernetes removes finished pods beyond 12,500 in the whole cluster
	// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection).
	maxFinishedCounted = 100_000
	// maxDetailBytes bounds the labels, states of Patroni, claims and finalizers of all pods. Pods that are seen beyond it are kept without. The
	// thousand pods of a very large node have some 2 MB.
	maxDetailBytes = 32 << 20
	// maxNamespaceDetailBytes bounds those of one namespace. A tenant can have any number of pods on a node that only finalizers keep.
	// Without it, they could take the labels from the poolers of others, which would then be evicted like any other pod.
	maxNamespaceDetailBytes = maxDetailBytes / 4
	// textOverhead is what a text needs beside its bytes, as an entry of a map or list, in bytes, roughly.
	textOverhead = 64
)

// podSet is the pods of a node: all that have not finished, a few that have, and the number of those.
type podSet struct {
	pods     map[types.NamespacedName]seenPod
	finished map[uint64]bool // hashes of UIDs
	named    int             // finished pods among pods
	details  map[string]int  // bytes, of pods, by namespace
	detailed int             // their sum
}

func newPodSet() *podSet {
	return &podSet{pods: map[types.NamespacedName]seenPod{}, finished: map[uint64]bool{}, details: map[string]int{}}
}

// put adds or replaces a pod. A finished pod that was not known before it finished may be counted only.
func (s *podSet) put(p seenPod, knownBefore bool) {
	s.remove(s.pods[nameOf(p.Ref)].Ref) // its namesake too, whose deletion a relist can hide
	s.remove(p.Ref)
	if p.Finished && len(s.finished) < maxFinishedCounted {
		s.finished[hashUID(p.UID)] = true
	}
	if p.Finished && !knownBefore && s.named >= maxFinishedNamed {
		return
	}
	if size := p.detailBytes(); s.detailed+size > maxDetailBytes || s.details[p.Namespace]+size > maxNamespaceDetailBytes {
		p.dropDetails()
	}
	s.count(p.Namespace, p.detailBytes())
	if p.Finished {
		s.named++
	}
	s.pods[nameOf(p.Ref)] = p
}

// remove removes the pod of this UID.
func (s *podSet) remove(ref drain.Ref) {
	delete(s.finished, hashUID(ref.UID))
	before, known := s.pods[nameOf(ref)]
	if !known || before.UID != ref.UID {
		return
	}
	s.count(ref.Namespace, -before.detailBytes())
	if before.Finished {
		s.named--
	}
	delete(s.pods, nameOf(ref))
}

// count counts the details of a pod.
func (s *podSet) count(namespace string, bytes int) {
	s.detailed += bytes
	if s.details[namespace] += bytes; s.details[namespace] == 0 {
		delete(s.details, namespace)
	}
}

// get returns the pod of this name and UID.
func (s *podSet) get(ref drain.Ref) (seenPod, bool) {
	if s == nil {
		return seenPod{}, false
	}
	pod, found := s.pods[nameOf(ref)]
	return pod, found && pod.UID == ref.UID
}

func (s *podSet) all() []seenPod {
	if s == nil {
		return nil
	}
	return slices.Collect(maps.Values(s.pods))
}

// detailBytes returns how much memory the details of the pod need, roughly.
func (p *seenPod) detailBytes() (size int) {
	for key, value := range p.Labels {
		size += len(key) + len(value) + textOverhead
	}
	for _, list := range [][]string{p.Claims, p.Finalizers} {
		for _, text := range list {
			size += len(text) + textOverhead
		}
	}
	if status, is := p.Annotations[escort.PatroniStatus]; is {
		size += len(status) + textOverhead
	}
	return size
}

func (p *seenPod) dropDetails() {
	p.labelsUnknown = p.labelsUnknown || len(p.Labels) > 0
	p.Labels, p.Claims, p.Finalizers = nil, nil, nil
	delete(p.Annotations, escort.PatroniStatus) // the others decide what becomes of the pod, and are short
}

func nameOf(r drain.Ref) types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

var uidSeed = maphash.MakeSeed()

func hashUID(uid string) uint64 { return maphash.String(uidSeed, uid) }
