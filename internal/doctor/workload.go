package doctor

import (
	"fmt"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/kube"
)

var workloadChecks = []check{
	{"pdb-never", (*view).pdbsThatNeverAllow},
	{"pdb-unready", (*view).unreadyPods},
	{"pdb-several", (*view).severalPDBs},
	{"pod-grace", (*view).longGraces},
	{"pod-bare", (*view).barePods},
	{"webhook-node", (*view).webhooksOnOneNode},
}

func (v *view) pdbsThatNeverAllow() (found []Finding) {
	for _, p := range v.allPDBs() {
		why := kube.NeverReason(p.PodDisruptionBudget)
		if why == "" || v.isOfSkipped(p) {
			continue
		}
		f := Finding{
			Where: p.where(), Severity: Warning, What: why,
			Cost: "each drain waits until its deadline, and then deletes the pods", Fix: "run another replica, or let the PDB allow one disruption",
			Command: fmt.Sprintf(`kubectl patch pdb -n %s %s --type merge -p '{"spec":{"minAvailable":null,"maxUnavailable":1}}'`, p.Namespace, p.Name),
		}
		switch owner := p.owned(); {
		case v.keepsDatabase(p):
			f.Severity, f.Command = Info, p.show()
			f.Cost = "a drain waits until the primary has moved; if nobody moves it, the deadline deletes it"
			f.Fix = "leave the PDB as it is; let quiesce move the primary: a phase with escort.postgres (internal/postgres/README.md)"
		case owner != "":
			f.Fix, f.Command = "run another replica, by "+owner+": it made the PDB", p.show()
		case !v.countsReplicas(p):
			f.Command = p.show()
		}
		found = append(found, f)
	}
	return found
}

// isOfSkipped reports whether a PDB selects only pods that drains skip, such as those of a DaemonSet.
func (v *view) isOfSkipped(p pdb) (skipped bool) {
	for _, member := range v.podsIn[p.Namespace] {
		if !p.selects(member) {
			continue
		}
		if member.evicted() {
			return false
		}
		skipped = true
	}
	return skipped
}

// countsReplicas reports whether Kubernetes knows the replicas of all pods of the PDB, which maxUnavailable needs
// (https://kubernetes.io/docs/tasks/run-application/configure-pdb/#arbitrary-controllers-and-selectors).
func (v *view) countsReplicas(p pdb) bool {
	for _, member := range v.podsIn[p.Namespace] {
		if !p.selects(member) {
			continue
		}
		owner := metav1.GetControllerOf(member.Pod)
		if owner == nil || !slices.Contains([]string{"ReplicaSet", "StatefulSet", "ReplicationController"}, owner.Kind) {
			return false
		}
	}
	return true
}

// unreadyPods finds PDBs that keep pods which do nothing
// (https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy).
func (v *view) unreadyPods() (found []Finding) {
	var quiet []string
	for _, p := range v.allPDBs() {
		if policy := p.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow || v.keepsDatabase(p) || v.isOfSkipped(p) {
			continue
		}
		unready := v.unreadyOf(p)
		if unready == 0 || p.Status.DisruptionsAllowed > 0 {
			if p.owned() == "" && v.isAsked(p.Namespace) {
				quiet = append(quiet, p.Namespace+"/"+p.Name)
			}
			continue
		}
		f := Finding{
			Where: p.where(), Severity: Warning, What: fmt.Sprintf("keeps pods that are not Ready: %d now", unready),
			Cost: "a drain waits for a pod that serves nobody", Fix: "let unready pods go: unhealthyPodEvictionPolicy: AlwaysAllow",
			Command: fmt.Sprintf(`kubectl patch pdb -n %s %s --type merge -p '{"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}}'`, p.Namespace, p.Name),
		}
		if owner := p.owned(); owner != "" {
			f.Fix, f.Command = "find why they are not Ready; "+owner+" made the PDB", p.show()
		}
		found = append(found, f)
	}
	if len(quiet) > 0 {
		found = append(found, Finding{
			Where: plural(len(quiet), "pdb"), Severity: Info, What: "would keep pods that are not Ready: " + named(quiet),
			Cost: "one crash loop blocks the drain of its node", Fix: "set unhealthyPodEvictionPolicy: AlwaysAllow where an unready pod holds no data",
		})
	}
	return found
}

// unreadyOf counts the pods of a PDB that are not Ready, and that drains evict.
func (v *view) unreadyOf(p pdb) (unready int) {
	for _, member := range v.podsIn[p.Namespace] {
		if !member.escort.Ready && member.Spec.NodeName != "" && member.evicted() && p.selects(member) {
			unready++
		}
	}
	return unready
}

// allPDBs returns the PDBs by namespace.
func (v *view) allPDBs() (all []pdb) {
	for _, namespace := range slices.Sorted(maps.Keys(v.pdbsIn)) {
		all = append(all, v.pdbsIn[namespace]...)
	}
	return all
}

func (v *view) severalPDBs() (found []Finding) {
	for _, w := range v.workloads {
		pdbs := v.pdbsOf(w.pods[0])
		if len(pdbs) < 2 || !w.pods[0].evicted() {
			continue
		}
		var names []string
		fix := "keep one of them"
		for _, p := range pdbs {
			names = append(names, p.Name)
			if v.keepsDatabase(p) || p.owned() != "" {
				fix = "keep the one of the operator"
			}
		}
		found = append(found, Finding{
			Where: w.String(), Severity: Warning, What: "PDBs " + named(names) + " select the same pods",
			Cost: "the API server never evicts such a pod; each drain waits until its deadline, and then deletes it", Fix: fix,
			Command: "kubectl get pdb -n " + w.namespace,
		})
	}
	return found
}

func (v *view) longGraces() (found []Finding) {
	for _, w := range v.workloads {
		if grace := w.pods[0].escort.Grace; w.pods[0].evicted() && grace > v.drainTime() {
			found = append(found, Finding{
				Where: w.String(), Severity: Warning, What: fmt.Sprintf("its grace period of %s is longer than a drain (%s)", short(grace), short(v.drainTime())),
				Cost: "the pod gets less than its grace period, and may be killed before it has stopped",
				Fix:  "raise drain.maxDuration, or lower terminationGracePeriodSeconds",
			})
		}
	}
	return found
}

func (v *view) barePods() []Finding {
	var names []string
	for _, p := range v.pods {
		if p.escort.Owner.Name == "" && !p.escort.Mirror && p.evicted() && v.isAsked(p.Namespace) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{
		Where: plural(len(names), "pod"), Severity: Warning, What: "nothing restarts " + named(names),
		Cost: "they are gone for good when their node leaves", Fix: "run them as a Deployment, StatefulSet or Job",
	}}
}

// webhooksOnOneNode finds webhooks that deny while the only node that serves them drains.
func (v *view) webhooksOnOneNode() (found []Finding) {
	if v.isUnread("pods") {
		return nil
	}
	for _, w := range v.Webhooks {
		service := v.service(w.Service)
		if !w.FailClosed || service == nil || len(service.Spec.Selector) == 0 {
			continue
		}
		nodes := nodesOf(v.servedBy(service))
		if len(nodes) > 1 {
			continue
		}
		f := Finding{
			Where: "webhook " + w.Name, Severity: Warning, Cost: "requests that it guards fail while its pod moves",
			Fix: "run two replicas on two nodes, or set failurePolicy: Ignore", Command: "kubectl describe service -n " + service.Namespace + " " + service.Name,
		}
		switch concerned := concernsPods(w.Rules); {
		case concerned && v.isNarrow(w):
			f.Cost = "it applies to some pods (it has selectors or conditions): meanwhile these are not created or evicted"
		case concerned:
			f.Severity = Critical
			f.Cost = "meanwhile no pod is created or evicted: what left the node does not come back"
		}
		if f.What = "fails closed, and only " + named(nodes) + " serves it"; len(nodes) == 0 {
			f.What = "fails closed, and no pod serves it"
		}
		found = append(found, f)
	}
	return found
}

// isNarrow reports whether a webhook may not apply to all pods. Of namespaces only the names are known: other labels may be missing.
func (v *view) isNarrow(w Webhook) bool {
	if w.Conditional {
		return true
	}
	namespaces, err := metav1.LabelSelectorAsSelector(w.Namespaces)
	objects, wrong := metav1.LabelSelectorAsSelector(w.Objects)
	if err != nil || wrong != nil {
		return true
	}
	everywhere, always := w.Namespaces == nil || namespaces.Empty(), w.Objects == nil || objects.Empty()
	if requirements, _ := namespaces.Requirements(); slices.ContainsFunc(requirements, func(r labels.Requirement) bool {
		return r.Key() != corev1.LabelMetadataName
	}) {
		return true
	}
	return slices.ContainsFunc(v.pods, func(p pod) bool {
		return !everywhere && !namespaces.Matches(labels.Set{corev1.LabelMetadataName: p.Namespace}) || !always && !objects.Matches(labels.Set(p.Labels))
	})
}

func (v *view) service(name string) *corev1.Service {
	for i := range v.Services {
		if s := &v.Services[i]; s.Namespace+"/"+s.Name == name {
			return s
		}
	}
	return nil
}

func (v *view) servedBy(s *corev1.Service) (pods []pod) {
	selector := labels.SelectorFromSet(s.Spec.Selector)
	for _, p := range v.podsIn[s.Namespace] {
		if p.escort.Ready && selector.Matches(labels.Set(p.Labels)) {
			pods = append(pods, p)
		}
	}
	return pods
}

// concernsPods reports whether the rules include the creation or the eviction of pods.
func concernsPods(rules []admissionv1.RuleWithOperations) bool {
	return slices.ContainsFunc(rules, func(r admissionv1.RuleWithOperations) bool {
		core := slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "*")
		pods := slices.ContainsFunc(r.Resources, func(name string) bool {
			return slices.Contains([]string{"pods", "pods/eviction", "*", "*/*", "pods/*"}, name)
		})
		creates := slices.ContainsFunc(r.Operations, func(o admissionv1.OperationType) bool {
			return o == admissionv1.Create || o == admissionv1.OperationAll
		})
		return core && pods && creates
	})
}
