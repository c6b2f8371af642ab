package doctor

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

var volumeChecks = []check{
	{"volume-local", (*view).localVolumes},
	{"volume-zone", (*view).zonesWithOneNode},
}

// volumesOf returns the bound volumes of a pod's claims.
func (v *view) volumesOf(p pod) (found []*corev1.PersistentVolume) {
	for _, claim := range p.escort.Claims {
		if pv := v.claimed[p.Namespace+"/"+claim]; pv != nil {
			found = append(found, pv)
		}
	}
	return found
}

// isLocal reports whether the volume's data is on one node.
func isLocal(pv *corev1.PersistentVolume) bool {
	if pv.Spec.Local != nil || pv.Spec.HostPath != nil {
		return true
	}
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return false
	}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		if slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return r.Key == corev1.LabelHostname }) {
			return true
		}
	}
	return false
}

// isLocal reports whether a volume of the pod is on one node.
func (v *view) isLocal(p pod) bool { return slices.ContainsFunc(v.volumesOf(p), isLocal) }

func (v *view) localVolumes() (found []Finding) {
	for _, w := range v.workloads {
		var names []string
		for _, p := range w.pods {
			for _, pv := range v.volumesOf(p) {
				if isLocal(pv) && p.evicted() {
					names = append(names, pv.Name)
				}
			}
		}
		if len(names) > 0 {
			found = append(found, Finding{
				Where: w.String(), Severity: Critical, What: "its data is on disks of instances: volume " + named(names),
				Cost: "the data is gone with the instance, and the pod waits for a node that is gone",
				Fix:  "keep a replica that streams on another node, or use a volume that can be attached elsewhere",
			})
		}
	}
	return found
}

// zonesWithOneNode finds pods whose volume is in a zone with no other node.
func (v *view) zonesWithOneNode() (found []Finding) {
	if v.isUnread("nodes") {
		return nil
	}
	open := v.rooms()
	for _, w := range v.workloads {
		for _, p := range w.pods {
			if pv := v.unattachable(p, open); pv != nil && p.evicted() {
				found = append(found, Finding{
					Where: w.String(), Severity: Warning, What: fmt.Sprintf("no other node may attach volume %s of pod %s", pv.Name, p.Name),
					Cost: "when its node leaves, the pod is Pending until one joins in the same zone", Fix: "keep two nodes in each zone: one group per zone",
					Command: "kubectl get nodes -L " + corev1.LabelTopologyZone,
				})
			}
		}
	}
	return found
}

// unattachable returns a volume of the pod that no other node may attach; nil: there is none.
func (v *view) unattachable(p pod, open []room) *corev1.PersistentVolume {
	for _, pv := range v.volumesOf(p) {
		if isLocal(pv) || pv.Spec.NodeAffinity == nil || p.Spec.NodeName == "" {
			continue
		}
		if !slices.ContainsFunc(open, func(r room) bool {
			return r.node.Name != p.Spec.NodeName && matchesNode(pv.Spec.NodeAffinity.Required, r.node)
		}) {
			return pv
		}
	}
	return nil
}
