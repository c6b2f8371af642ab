package kube

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/drain"
)

// selected are the names of the PDBs that select a pod with these labels, in order.
type selected struct {
	labels map[string]string
	names  []string
}

// matching returns the known PDBs that select the pod.
func (d *pdbs) matching(p seenPod) (found []*pdb) {
	for _, name := range d.selecting(p) {
		found = append(found, d.namespaces[p.Namespace].known[name])
	}
	return found
}

// selecting returns the names of the known PDBs that select the pod. A pod whose labels are not known matches none.
func (d *pdbs) selecting(p seenPod) []string {
	namespace := d.namespaces[p.Namespace]
	if namespace == nil || p.labelsUnknown {
		return nil
	}
	if found, is := namespace.selecting[p.Ref]; is && maps.Equal(found.labels, p.Labels) {
		return found.names
	}
	var names []string
	for name, pdb := range namespace.known {
		if pdb.selector.Matches(labels.Set(p.Labels)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if namespace.selecting == nil {
		namespace.selecting = map[drain.Ref]selected{}
	}
	namespace.selecting[p.Ref] = selected{p.Labels, names}
	return names
}

// withPDBs returns the pods with their field PDBs set to the known PDBs that select them. Most drains know none.
func (d *pdbs) withPDBs(seen []seenPod) []drain.Pod {
	d.mu.Lock()
	defer d.mu.Unlock()
	pods := make([]drain.Pod, len(seen))
	for i, p := range seen {
		pods[i] = p.Pod
		if names := d.selecting(p); len(names) > 0 {
			pods[i].PDBs = names
		}
	}
	d.forgetGone(seen)
	return pods
}

// forgetGone forgets what is known of pods that are gone. Otherwise pods that are made and deleted again would fill the memory.
func (d *pdbs) forgetGone(seen []seenPod) {
	d.asked = keepSeen(d.asked, seen)
	for _, namespace := range d.namespaces {
		namespace.selecting = keepSeen(namespace.selecting, seen)
	}
}

// keepSeen returns what is known of the pods, and no more than that if more is known than there are pods.
func keepSeen[T any](known map[drain.Ref]T, seen []seenPod) map[drain.Ref]T {
	if len(known) <= len(seen) {
		return known
	}
	kept := make(map[drain.Ref]T, len(seen))
	for _, p := range seen {
		if what, is := known[p.Ref]; is {
			kept[p.Ref] = what
		}
	}
	return kept
}
