package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/kube"
)

// room is what a node has left.
type room struct {
	node        *corev1.Node
	cpu, memory int64 // millicores, bytes
	pods        int64
}

// needs returns the requests of a pod, as the scheduler sums them up
// (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers).
func needs(p *corev1.Pod) (cpu, memory int64) {
	var initCPU, initMemory int64
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			cpu, memory = cpu+c.Resources.Requests.Cpu().MilliValue(), memory+c.Resources.Requests.Memory().Value()
			continue
		}
		initCPU = max(initCPU, cpu+c.Resources.Requests.Cpu().MilliValue())
		initMemory = max(initMemory, memory+c.Resources.Requests.Memory().Value())
	}
	for _, c := range p.Spec.Containers {
		cpu, memory = cpu+c.Resources.Requests.Cpu().MilliValue(), memory+c.Resources.Requests.Memory().Value()
	}
	overhead := p.Spec.Overhead
	return max(cpu, initCPU) + overhead.Cpu().MilliValue(), max(memory, initMemory) + overhead.Memory().Value()
}

// rooms returns what every node that takes pods has left.
func (v *view) rooms() (all []room) {
	at := map[string]int{}
	for i := range v.Nodes {
		if n := &v.Nodes[i]; kube.TakesPods(n) {
			at[n.Name] = len(all)
			all = append(all, room{n, n.Status.Allocatable.Cpu().MilliValue(), n.Status.Allocatable.Memory().Value(), n.Status.Allocatable.Pods().Value()})
		}
	}
	for _, p := range v.pods {
		if n, is := at[p.Spec.NodeName]; is {
			cpu, memory := needs(p.Pod)
			all[n].cpu, all[n].memory, all[n].pods = all[n].cpu-cpu, all[n].memory-memory, all[n].pods-1
		}
	}
	return all
}

// roomElsewhere finds nodes whose evicted pods have no room on the other nodes. It is rough: it knows requests, taints, selectors and zones
// of volumes, but no affinity between pods.
func (v *view) roomElsewhere() (found []Finding) {
	if v.isUnread(OtherPods) {
		return nil
	}
	all := v.rooms()
	for _, leaving := range all {
		pods := v.evictedFrom(leaving.node.Name, all)
		if unplaced := v.place(pods, leaving, all); len(unplaced) > 0 {
			found = append(found, Finding{
				Where: "node " + leaving.node.Name, Severity: Warning,
				What: fmt.Sprintf("%d of its %s would find no room elsewhere: %s", len(unplaced), plural(len(pods), "evicted pod"), named(unplaced)),
				Cost: "they stay Pending until a new node joins", Fix: "launch before terminating, keep spare room, or widen selectors and tolerations",
				Command: "kubectl describe nodes | grep -A 8 'Allocated resources'",
			})
		}
	}
	return found
}

// evictedFrom returns the pods that leave the node and come back elsewhere. The checks of volumes name those whose volume cannot.
func (v *view) evictedFrom(node string, open []room) (pods []pod) {
	for _, p := range v.podsOn[node] {
		if p.evicted() && p.escort.Owner.Name != "" && !v.isLocal(p) && v.unattachable(p, open) == nil {
			pods = append(pods, p)
		}
	}
	// The largest first: it is the hardest to place.
	slices.SortStableFunc(pods, func(a, b pod) int {
		cpuA, memoryA := needs(a.Pod)
		cpuB, memoryB := needs(b.Pod)
		return cmp.Or(cmp.Compare(memoryB, memoryA), cmp.Compare(cpuB, cpuA))
	})
	return pods
}

// place puts pods on the other nodes, and returns the owners of those that do not fit, one for each pod.
func (v *view) place(pods []pod, leaving room, all []room) (unplaced []string) {
	others := slices.DeleteFunc(slices.Clone(all), func(r room) bool { return r.node == leaving.node })
	for _, p := range pods {
		cpu, memory := needs(p.Pod)
		n := slices.IndexFunc(others, func(r room) bool {
			return r.pods > 0 && r.cpu >= cpu && r.memory >= memory && v.admits(r.node, p)
		})
		if n < 0 {
			if v.isAsked(p.Namespace) {
				unplaced = append(unplaced, ownerOf(p).String())
			}
			continue
		}
		others[n].cpu, others[n].memory, others[n].pods = others[n].cpu-cpu, others[n].memory-memory, others[n].pods-1
	}
	return unplaced
}

// admits reports whether a node may run the pod, apart from room.
func (v *view) admits(n *corev1.Node, p pod) bool {
	for key, value := range p.Spec.NodeSelector {
		if n.Labels[key] != value {
			return false
		}
	}
	for _, taint := range n.Spec.Taints {
		tolerated := slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return tolerates(t, taint) })
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated {
			return false
		}
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && !matchesNode(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, n) {
		return false
	}
	for _, pv := range v.volumesOf(p) {
		if pv.Spec.NodeAffinity != nil && !matchesNode(pv.Spec.NodeAffinity.Required, n) {
			return false
		}
	}
	return true
}

// tolerates reports whether the toleration is for the taint
// (https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/).
func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	return t.Operator == corev1.TolerationOpExists || t.Value == taint.Value
}

// matchesNode reports whether a node has what a selector requires: one of its terms.
func matchesNode(selector *corev1.NodeSelector, n *corev1.Node) bool {
	if selector == nil {
		return true
	}
	return slices.ContainsFunc(selector.NodeSelectorTerms, func(term corev1.NodeSelectorTerm) bool {
		labels := !slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return !matchesRequirement(r, n.Labels) })
		fields := !slices.ContainsFunc(term.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return !matchesRequirement(r, map[string]string{"metadata.name": n.Name})
		})
		return labels && fields && len(term.MatchExpressions)+len(term.MatchFields) > 0
	})
}

func matchesRequirement(r corev1.NodeSelectorRequirement, labels map[string]string) bool {
	value, has := labels[r.Key]
	switch r.Operator {
	case corev1.NodeSelectorOpIn:
		return has && slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpExists:
		return has
	case corev1.NodeSelectorOpDoesNotExist:
		return !has
	}
	number, err := strconv.Atoi(value)
	limit, wrong := strconv.Atoi(r.Values[0]) // the API server requires one
	if err != nil || wrong != nil {
		return false
	}
	return r.Operator == corev1.NodeSelectorOpGt && number > limit || r.Operator == corev1.NodeSelectorOpLt && number < limit
}
