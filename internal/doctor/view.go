package doctor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
)

// view is a snapshot with what several checks look up.
type view struct {
	Snapshot
	asked     string // the namespace that is asked about; empty: all
	pods      []pod  // that run, or will
	nodes     map[string]*corev1.Node
	workloads []workload                          // by namespace and name
	instances map[string]string                   // nodes by instance ID
	grouped   map[string]bool                     // instances in a group
	podsOn    map[string][]pod                    // by node
	podsIn    map[string][]pod                    // by namespace
	pdbsIn    map[string][]pdb                    // by namespace
	claimed   map[string]*corev1.PersistentVolume // bound volumes, by namespace/claim
}

// pdb is a PDB with its selector. One that cannot be read selects nothing.
type pdb struct {
	*policyv1.PodDisruptionBudget
	selector labels.Selector
}

func (p pdb) selects(member pod) bool { return p.selector.Matches(labels.Set(member.Labels)) }

func (p pdb) where() string { return "pdb " + p.Namespace + "/" + p.Name }

// show returns the command that shows the PDB. None deletes one: it may be all that keeps a database up.
func (p pdb) show() string { return "kubectl get pdb -n " + p.Namespace + " " + p.Name + " -o yaml" }

// pod is a pod in both forms.
type pod struct {
	*corev1.Pod
	escort escort.Pod
}

// evicted reports whether a drain evicts the pod.
func (p pod) evicted() bool { return drain.Decide(p.escort.Pod, drain.Node{}).Verdict != drain.Skip }

// workload is pods with one owner: a Deployment rather than its ReplicaSets.
type workload struct {
	kind, namespace, name string
	pods                  []pod
}

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

func newView(s Snapshot) *view {
	v := &view{
		Snapshot: s, nodes: map[string]*corev1.Node{}, instances: map[string]string{}, grouped: map[string]bool{},
		podsOn: map[string][]pod{}, podsIn: map[string][]pod{}, pdbsIn: map[string][]pdb{}, claimed: map[string]*corev1.PersistentVolume{},
	}
	for i := range s.Nodes {
		v.nodes[s.Nodes[i].Name] = &s.Nodes[i]
		if id := InstanceID(&s.Nodes[i]); id != "" {
			v.instances[id] = s.Nodes[i].Name
		}
	}
	for i := range s.Pods {
		p := pod{&s.Pods[i], *kube.ToEscortPod(&s.Pods[i])}
		if !p.escort.Finished && !p.escort.Terminating() {
			v.pods = append(v.pods, p)
			v.podsOn[p.Spec.NodeName] = append(v.podsOn[p.Spec.NodeName], p)
			v.podsIn[p.Namespace] = append(v.podsIn[p.Namespace], p)
		}
	}
	v.addWorkloads()
	v.addObjects()
	return v
}

func (v *view) addObjects() {
	for i := range v.PDBs {
		p := pdb{&v.PDBs[i], labels.Nothing()}
		if parsed, err := metav1.LabelSelectorAsSelector(p.Spec.Selector); err == nil {
			p.selector = parsed
		}
		v.pdbsIn[p.Namespace] = append(v.pdbsIn[p.Namespace], p)
	}
	for i := range v.Volumes {
		if claim := v.Volumes[i].Spec.ClaimRef; claim != nil {
			v.claimed[claim.Namespace+"/"+claim.Name] = &v.Volumes[i]
		}
	}
	for _, g := range v.Groups {
		for _, i := range g.Instances {
			v.grouped[i.ID] = true
		}
	}
}

func (v *view) addWorkloads() {
	at := map[string]int{}
	for _, p := range v.pods {
		w := ownerOf(p)
		n, known := at[w.String()]
		if !known {
			n = len(v.workloads)
			at[w.String()] = n
			v.workloads = append(v.workloads, w)
		}
		v.workloads[n].pods = append(v.workloads[n].pods, p)
	}
	slices.SortFunc(v.workloads, func(a, b workload) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
}

// ownerOf returns the workload of a pod, without its pods. A Deployment's ReplicaSet has the Deployment's name, with the hash of the template
// (https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pod-template-hash-label).
func ownerOf(p pod) workload {
	owner := p.escort.Owner
	if hash := p.Labels["pod-template-hash"]; owner.Kind == "ReplicaSet" && hash != "" {
		if name, cut := strings.CutSuffix(owner.Name, "-"+hash); cut {
			return workload{kind: "deployment", namespace: p.Namespace, name: name}
		}
	}
	if owner.Name == "" {
		return workload{kind: "pod", namespace: p.Namespace, name: p.Name}
	}
	return workload{kind: strings.ToLower(owner.Kind), namespace: p.Namespace, name: owner.Name}
}

// poolers returns the workloads whose pods are poolers.
func (v *view) poolers() (found []workload) {
	for _, w := range v.workloads {
		first := w.pods[0].escort
		if pooler.Recognize(first.Labels, first.Annotations) && !first.Mirror {
			found = append(found, w)
		}
	}
	return found
}

// drainTime is how long a drain may take.
func (v *view) drainTime() time.Duration {
	return v.Config.Drain.MaxDuration - v.Config.Drain.CompletionReserve
}

// pdbsOf returns the PDBs that select the pod.
func (v *view) pdbsOf(p pod) (found []pdb) {
	for _, b := range v.pdbsIn[p.Namespace] {
		if b.selects(p) {
			found = append(found, b)
		}
	}
	return found
}

// nodesOf returns the nodes of pods, in order.
func nodesOf(pods []pod) (names []string) {
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			names = append(names, p.Spec.NodeName)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// zonesOf returns the zones of nodes, in order.
func (v *view) zonesOf(nodes []string) (zones []string) {
	for _, name := range nodes {
		if n := v.nodes[name]; n != nil {
			zones = append(zones, n.Labels[corev1.LabelTopologyZone])
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(zones)))
}

// InstanceID returns the EC2 instance of a node, as its providerID says; empty: it says none.
func InstanceID(n *corev1.Node) string {
	rest, aws := strings.CutPrefix(n.Spec.ProviderID, "aws:///")
	_, id, split := strings.Cut(rest, "/")
	if !aws || !split || !strings.HasPrefix(id, "i-") {
		return ""
	}
	return id
}

// isFargate reports whether the node is one of Fargate: it has one pod and no instance of ours.
func isFargate(n *corev1.Node) bool { return n.Labels["eks.amazonaws.com/compute-type"] == "fargate" }

// karpenterPool is the label of nodes that Karpenter made (https://karpenter.sh/docs/concepts/nodepools/).
const karpenterPool = "karpenter.sh/nodepool"
