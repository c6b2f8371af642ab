package pgbouncer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// preflight finds the one label that a surge takes off: without it the pod is out of its ReplicaSet, which makes another in
// its place at once, out of every Service and out of every budget, and not out of reach. Otherwise it says why there is none.
func preflight(pod Pod, around Around) (key, why string) {
	if why := replaceable(pod, around); why != "" {
		return "", why
	}
	var faults []string
	for _, key := range slices.Sorted(maps.Keys(around.Owner.Labels)) {
		fault := around.fault(key, pod.Labels[key])
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
func replaceable(pod Pod, around Around) (why string) {
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

// fault is why this label will not do.
func (a Around) fault(key, value string) string {
	if !a.Owner.exactly(key, value) {
		return fmt.Sprintf("its ReplicaSet does not simply select on %s=%s", key, value)
	}
	for _, service := range a.Services {
		if !service.exactly(key, value) {
			return fmt.Sprintf("Service %s does not simply select on %s", service.Name, key)
		}
	}
	for _, budget := range a.Budgets {
		if !budget.exactly(key, value) {
			return fmt.Sprintf("budget %s does not simply select on %s", budget.Name, key)
		}
	}
	for _, policy := range a.Policies {
		if policy.mentions(key) {
			return fmt.Sprintf("network policy %s selects on %s", policy.Name, key)
		}
	}
	return ""
}

// exactly: it selects on this label, and asks nothing else of its key: what an expression makes of a missing key depends on
// its operator.
func (s Selecting) exactly(key, value string) bool {
	selected, has := s.Labels[key]
	return has && selected == value && !slices.Contains(s.Keys, key)
}

func (s Selecting) mentions(key string) bool {
	_, has := s.Labels[key]
	return has || slices.Contains(s.Keys, key)
}
