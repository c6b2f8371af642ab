package pooler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quiesce/internal/escort"
)

// preflight returns the one label that a surge removes. Without it, the pod leaves its ReplicaSet, which makes another at once, and
// every Service and PDB, but stays reachable. If there is no such label, preflight returns the reason.
func preflight(pod escort.Pod, selectors escort.Selectors) (key, reason string) {
	if reason := whyNotReplaceable(pod, selectors); reason != "" {
		return "", reason
	}
	var reasons []string
	for _, key := range slices.Sorted(maps.Keys(selectors.Owner.Labels)) {
		reason := whyNotRemovable(selectors, key, pod.Labels[key])
		if reason == "" {
			return key, ""
		}
		reasons = append(reasons, reason)
	}
	if len(reasons) == 0 {
		return "", "its ReplicaSet selects its pods on no exact label"
	}
	return "", strings.Join(reasons, "; ")
}

// whyNotReplaceable returns why the pod would get no replacement; empty: it would. Only a ReplicaSet replaces a pod that runs on without
// it. A StatefulSet's replacement would have the same name, a DaemonSet's the same node.
func whyNotReplaceable(pod escort.Pod, selectors escort.Selectors) (reason string) {
	switch {
	case pod.Owner.Kind == "":
		return "it has no owner, so nothing would replace it"
	case pod.Owner.Kind != "ReplicaSet":
		return fmt.Sprintf("a %s makes no replacement while the pod exists", pod.Owner.Kind)
	case selectors.Owner == nil:
		return "the selector of its ReplicaSet is not known"
	case selectors.Replicas < 1:
		return "its ReplicaSet wants no pods"
	default:
		return ""
	}
}

// whyNotRemovable returns why a surge cannot remove this label; empty: it can.
func whyNotRemovable(selectors escort.Selectors, key, value string) string {
	if !selectors.Owner.SelectsExactly(key, value) {
		return fmt.Sprintf("its ReplicaSet does not simply select on %s=%s", key, value)
	}
	for _, service := range selectors.Services {
		if !service.SelectsExactly(key, value) {
			return fmt.Sprintf("Service %s does not simply select on %s", service.Name, key)
		}
	}
	for _, pdb := range selectors.PDBs {
		if !pdb.SelectsExactly(key, value) {
			return fmt.Sprintf("PDB %s does not simply select on %s", pdb.Name, key)
		}
	}
	for _, policy := range selectors.Policies {
		if policy.Mentions(key) {
			return fmt.Sprintf("network policy %s selects on %s", policy.Name, key)
		}
	}
	return ""
}
