package pooler

import (
	"fmt"
	"maps"
	"quiesce/internal/escort"
	"slices"
	"strings"
)

// preflight finds the one label that a surge takes off: without it the pod is out of its ReplicaSet, which makes another in
// its place at once, out of every Service and out of every budget, and not out of reach. Otherwise it says why there is none.
func preflight(pod escort.Pod, around escort.Selectors) (key, why string) {
	if why := replaceable(pod, around); why != "" {
		return "", why
	}
	var faults []string
	for _, key := range slices.Sorted(maps.Keys(around.Owner.Labels)) {
		fault := whyNotRemovable(around, key, pod.Labels[key])
		if fault == "" {
			return key, ""
		}
		faults = append(faults, fault)
	}
	if len(faults) == 0 {
		return "", "its ReplicaSet selects its pods on no exact label"
	}
	return "", strings.Join(faults, "; ")
}

// replaceable: only a ReplicaSet makes a replacement of a pod that lives on without it. A StatefulSet's would have the same
// name, a DaemonSet's the same node.
func replaceable(pod escort.Pod, around escort.Selectors) (why string) {
	switch {
	case pod.Owner.Kind == "":
		return "nobody would replace it: it has no owner"
	case pod.Owner.Kind != "ReplicaSet":
		return fmt.Sprintf("a %s makes no replacement while the pod is there", pod.Owner.Kind)
	case around.Owner == nil:
		return "what its ReplicaSet selects is not known"
	case around.Replicas < 1:
		return "its ReplicaSet is to have no pods"
	default:
		return ""
	}
}

// whyNotRemovable returns why a surge cannot remove this label; empty: it can.
func whyNotRemovable(around escort.Selectors, key, value string) string {
	if !around.Owner.SelectsExactly(key, value) {
		return fmt.Sprintf("its ReplicaSet does not simply select on %s=%s", key, value)
	}
	for _, service := range around.Services {
		if !service.SelectsExactly(key, value) {
			return fmt.Sprintf("Service %s does not simply select on %s", service.Name, key)
		}
	}
	for _, pdb := range around.PDBs {
		if !pdb.SelectsExactly(key, value) {
			return fmt.Sprintf("PDB %s does not simply select on %s", pdb.Name, key)
		}
	}
	for _, policy := range around.Policies {
		if policy.Mentions(key) {
			return fmt.Sprintf("network policy %s selects on %s", policy.Name, key)
		}
	}
	return ""
}
