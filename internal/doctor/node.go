package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

var nodeChecks = []check{
	{"node-provider-id", (*view).providerIDs},
	{"node-group", (*view).groupsOfNodes},
	{"node-karpenter", (*view).karpenterNodes},
	{"node-fit", (*view).roomElsewhere},
}

// nodeGroupLabels have the name of a node's managed node group, and of eksctl's.
var nodeGroupLabels = []string{"eks.amazonaws.com/nodegroup", "alpha.eksctl.io/nodegroup-name"}

// nodeGroupTags are the tags of the groups that belong to these.
var nodeGroupTags = []string{"eks:nodegroup-name", "alpha.eksctl.io/nodegroup-name"}

func (v *view) providerIDs() (found []Finding) {
	claims := map[string][]string{}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if isFargate(n) || isElsewhere(n) {
			continue
		}
		id := InstanceID(n)
		if id != "" {
			claims[id] = append(claims[id], n.Name)
		}
		if what := v.wrongProviderID(n, id); what != "" {
			found = append(found, Finding{
				Where: "node " + n.Name, Severity: Warning, What: what,
				Cost: "a drain must find the node by its name or address, and if these differ too, it goes undrained",
				Fix:  "let the cloud controller set it: replace the node", Command: "kubectl get node " + n.Name + " -o jsonpath='{.spec.providerID}'",
			})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(claims)) {
		if names := claims[id]; len(names) > 1 {
			found = append(found, Finding{
				Where: "instance " + id, Severity: Warning, What: "nodes " + named(names) + " claim it",
				Cost: "all of them are drained when it goes", Fix: "delete the Node objects that have no kubelet",
				Command: "kubectl get nodes -o wide",
			})
		}
	}
	return found
}

// isElsewhere reports whether the node is none of EC2: a hybrid node, for example.
func isElsewhere(n *corev1.Node) bool {
	return n.Spec.ProviderID != "" && !strings.HasPrefix(n.Spec.ProviderID, "aws:")
}

func (v *view) wrongProviderID(n *corev1.Node, id string) string {
	zone := n.Labels[corev1.LabelTopologyZone]
	switch _, known := v.Instances[id]; {
	case n.Spec.ProviderID == "":
		return "has no providerID"
	case id == "":
		return fmt.Sprintf("its providerID %q names no instance", n.Spec.ProviderID)
	case zone != "" && !strings.HasPrefix(n.Spec.ProviderID, "aws:///"+zone+"/"):
		return fmt.Sprintf("its providerID %q is not of its zone %s", n.Spec.ProviderID, zone)
	case v.AWS && !known:
		return fmt.Sprintf("EC2 does not know its instance %s", id)
	}
	return ""
}

// groupsOfNodes finds nodes whose instances are in no group, and nodes whose node group is gone.
func (v *view) groupsOfNodes() (found []Finding) {
	if !v.AWS {
		return nil
	}
	var loose []string
	replaced := map[string][]string{}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if id := InstanceID(n); id == "" || isFargate(n) || n.Labels[karpenterPool] != "" || v.grouped[id] {
			continue
		}
		if name := v.lostNodeGroup(n); name != "" {
			replaced[name] = append(replaced[name], n.Name)
		} else {
			loose = append(loose, n.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(replaced)) {
		found = append(found, Finding{
			Where: "node group " + name, Severity: Warning, What: "its Auto Scaling group is gone, and nodes remain: " + named(replaced[name]),
			Cost: "no hook holds these instances", Fix: "drain these nodes, then terminate their instances",
			Command: "kubectl drain --ignore-daemonsets --delete-emptydir-data " + replaced[name][0],
		})
	}
	if len(loose) > 0 {
		found = append(found, Finding{
			Where: plural(len(loose), "node"), Severity: Info, What: "in no Auto Scaling group: " + named(loose),
			Cost: "no hook holds these instances: whoever terminates them must drain them", Fix: "attach them to a group with the hook",
		})
	}
	return found
}

// lostNodeGroup returns the node group that the node's labels name, if no group has its tag.
func (v *view) lostNodeGroup(n *corev1.Node) string {
	for i, label := range nodeGroupLabels {
		name := n.Labels[label]
		if name == "" {
			continue
		}
		for _, g := range v.Groups {
			if g.Tags[nodeGroupTags[i]] == name {
				return ""
			}
		}
		return name
	}
	return ""
}

func (v *view) karpenterNodes() []Finding {
	var names []string
	for _, n := range v.Nodes {
		if n.Labels[karpenterPool] != "" {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{
		Where: plural(len(names), "node"), Severity: Info, What: "Karpenter manages " + named(names),
		Cost: "Karpenter drains them itself: no hook of quiesce sees them leave", Fix: "give poolers there the preStop hook prestop (infra/prestop/README.md)",
	}}
}
