package doctor

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/config"
	"quiesce/internal/postgres"
)

var readingChecks = []check{{"reading", (*view).unreadParts}}

var quiesceChecks = []check{
	{"quiesce-installed", (*view).notInstalled},
	{"quiesce-permissions", (*view).missingPermissions},
	{"quiesce-policies", (*view).missingPolicies},
	{"quiesce-function", (*view).functionProblems},
	{"quiesce-version", (*view).otherVersion},
	{"quiesce-network", (*view).networkProblems},
	{"quiesce-queue", (*view).dlqMessages},
	{"quiesce-paused", (*view).pausedPoolers},
	{"quiesce-closed", (*view).nodesLeftClosed},
}

func (v *view) unreadParts() (found []Finding) {
	for _, u := range v.Unread {
		found = append(found, Finding{
			Where: u.Part, Severity: Warning, What: "could not be read: " + u.Error, Cost: "checks that need this were not made", Fix: u.Fix,
		})
	}
	return found
}

func (v *view) notInstalled() []Finding {
	if v.Install.Namespace || v.isUnread("permissions of quiesce") {
		return nil
	}
	if v.Function != nil {
		return []Finding{{
			Where: "quiesce", Severity: Critical, What: "the function is deployed, and its permissions are not installed in this cluster",
			Cost: "no node is cordoned, and no pod is evicted: instances go undrained", Fix: "apply the manifest of this version", Command: "kubectl apply -f infra/rbac.yaml",
		}}
	}
	return []Finding{{
		Where: "quiesce", Severity: Info, What: "is not installed in this cluster", Cost: "nodes that Auto Scaling terminates are not drained",
		Fix: "see infra/README.md", Command: "kubectl apply -f infra/rbac.yaml",
	}}
}

func (v *view) isUnread(part string) bool {
	for _, u := range v.Unread {
		if u.Part == part {
			return true
		}
	}
	return false
}

func (v *view) missingPermissions() (found []Finding) {
	if !v.Install.Namespace || len(v.Install.Missing) == 0 {
		return nil
	}
	var needed, optional []string
	for _, p := range v.Install.Missing {
		if v.isNeeded(p) {
			needed = append(needed, p.String())
		} else {
			optional = append(optional, p.String())
		}
	}
	if len(needed) > 0 {
		found = append(found, Finding{
			Where: "rbac group " + Group, Severity: Critical, What: "the function may not " + named(needed),
			Cost: "drains fail, or leave pods behind", Fix: "apply the manifest of this version", Command: "kubectl apply -f infra/rbac.yaml",
		})
	}
	if len(optional) > 0 {
		found = append(found, Finding{
			Where: "rbac group " + Group, Severity: Info, What: "the function may not " + named(optional),
			Cost: "only escorts of poolers and drain.onDeadline: force need this", Fix: "leave it if that is on purpose; --config tells doctor what quiesce.yaml needs",
		})
	}
	return found
}

// isNeeded reports whether drains need the permission, as far as quiesce.yaml is known.
func (v *view) isNeeded(p Permission) bool {
	switch {
	case p.ForPoolers():
		return v.Configured && slices.ContainsFunc(v.Config.Phases, func(phase config.Phase) bool { return phase.PGBouncer != nil })
	case p.forDeadline():
		return v.Configured && v.Config.Drain.OnDeadline == config.Force
	}
	return true
}

func (v *view) missingPolicies() []Finding {
	if !v.Install.Namespace || len(v.Install.Policies) == 0 {
		return nil
	}
	return []Finding{{
		Where: "rbac group " + Group, Severity: Warning, What: "admission policies are missing: " + named(v.Install.Policies),
		Cost: "who takes over the function can change more than a drain needs", Fix: "apply the manifest; it needs Kubernetes 1.30",
		Command: "kubectl apply -f infra/rbac.yaml",
	}}
}

func (v *view) functionProblems() []Finding {
	if v.Function == nil || v.Function.Problem == "" {
		return nil
	}
	return []Finding{{
		Where: "function " + v.Function.Name, Severity: Critical, What: v.Function.Problem, Cost: "nothing answers the hook: instances wait, and go undrained",
		Fix: "see infra/RUNBOOK.md", Command: "aws lambda get-function-configuration --function-name " + Quote(v.Function.Invoked),
	}}
}

func (v *view) dlqMessages() []Finding {
	if v.Function == nil || v.Function.DLQMessages == 0 {
		return nil
	}
	return []Finding{{
		Where: "function " + v.Function.Name, Severity: Warning, What: plural(v.Function.DLQMessages, "message") + " in its dead-letter queue",
		Cost: "terminations may have gone undrained", Fix: "read them, then redrive them (infra/RUNBOOK.md)",
	}}
}

// pausedPoolers finds poolers that an interrupted move or drain left paused.
func (v *view) pausedPoolers() (found []Finding) {
	for _, u := range v.Install.Unfinished {
		if u.Held {
			continue
		}
		says := ""
		switch pods := v.withUIDs(u.Pods); {
		case len(pods) > 0:
			says = "a drain recorded on it that " + named(pods) + " may be paused"
		case u.Mark != "" && strings.HasPrefix(u.Name, postgres.LeasePrefix) && !postgres.IsResumed(u.Mark):
			says = "its annotation quiesce/paused says that poolers may be paused"
		default:
			continue
		}
		found = append(found, Finding{
			Where: "lease quiesce/" + u.Name, Severity: Critical, What: "no invocation holds it, and " + says,
			Cost: "clients of these poolers wait, and then get an error", Fix: "the function resumes them within a minute; without one, you do, with the Secret that has the consoles' login",
			Command: "quiescectl resume --console-secret NAMESPACE/NAME",
		})
	}
	return found
}

// withUIDs returns the pods with these UIDs. What was done to one that is gone is gone too.
func (v *view) withUIDs(uids []string) (names []string) {
	for i := range v.Snapshot.Pods {
		if p := &v.Snapshot.Pods[i]; slices.Contains(uids, string(p.UID)) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	return names
}

// nodesLeftClosed finds nodes that quiesce closed and that no Lease keeps any more.
func (v *view) nodesLeftClosed() (found []Finding) {
	kept := map[string]bool{}
	for _, l := range v.Install.Leases {
		kept[l.Name] = true
		for _, closed := range l.Closed { // a drain may know a node by its name or address
			kept[closed.Name] = true
		}
	}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if n.Labels[corev1.LabelNodeExcludeBalancers] != "quiesce" || kept[InstanceID(n)] || kept[n.Name] || v.isUnread("leases") {
			continue
		}
		found = append(found, Finding{
			Where: "node " + n.Name, Severity: Warning, What: "quiesce cordoned it, and no Lease records a drain", Cost: "it takes no pods and no traffic of load balancers",
			Fix:     "open it, unless its instance is being terminated",
			Command: openCommand(n),
		})
	}
	return found
}

// openCommand returns the command that undoes what a drain changes on a node (infra/RUNBOOK.md, Break glass).
func openCommand(n *corev1.Node) string {
	command := fmt.Sprintf("kubectl uncordon %s && kubectl label node %s %s- && kubectl annotate node %s quiesce/termination-",
		n.Name, n.Name, corev1.LabelNodeExcludeBalancers, n.Name)
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "quiesce/terminating" }) {
		command += fmt.Sprintf(" && kubectl taint node %s quiesce/terminating-", n.Name)
	}
	return command
}
