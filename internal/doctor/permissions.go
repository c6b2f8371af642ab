package doctor

import "slices"

// Permission is one verb on one resource, as RBAC grants it.
type Permission struct {
	Verb, Group, Resource, Subresource string
	Namespace                          string // empty: in all
}

// String returns it as kubectl auth can-i takes it.
func (p Permission) String() string {
	text := p.Verb + " " + p.Resource
	if p.Subresource != "" {
		text += "/" + p.Subresource
	}
	if p.Namespace != "" {
		text += " in namespace " + p.Namespace
	}
	return text
}

// Group is the group of the function in Kubernetes, and its namespace.
const Group = "quiesce"

// rule is one rule of RBAC.
type rule struct {
	group, resource, subresource, namespace string
	verbs                                   []string
}

// required are the roles of infra/rbac.yaml that a drain needs: quiesce, and its Leases. Roles for events and for the status of pods are
// optional.
var required = []rule{
	{"", "nodes", "", "", []string{"get", "list", "watch", "patch"}},
	{"", "pods", "", "", []string{"list", "watch", "delete"}},
	{"", "pods", "eviction", "", []string{"create"}},
	{"policy", "poddisruptionbudgets", "", "", []string{"list", "watch"}},
	{"", "persistentvolumeclaims", "", "", []string{"get"}},
	{"storage.k8s.io", "volumeattachments", "", "", []string{"list", "watch"}},
	{"coordination.k8s.io", "leases", "", Group, []string{"create", "get", "list", "update", "delete"}},
}

// poolers is the role quiesce-poolers. It may be missing where no phase has an escort, or be bound in the namespaces of poolers only.
var poolers = []rule{
	{"", "pods", "", "", []string{"get", "patch"}},
	{"apps", "replicasets", "", "", []string{"get"}},
	{"apps", "statefulsets", "", "", []string{"get"}},
	{"", "services", "", "", []string{"list"}},
	{"networking.k8s.io", "networkpolicies", "", "", []string{"list"}},
	{"discovery.k8s.io", "endpointslices", "", "", []string{"list"}},
}

// Permissions returns what the group quiesce must be allowed.
func Permissions() (all []Permission) {
	return slices.Concat(permissionsOf(required), permissionsOf(poolers))
}

func permissionsOf(rules []rule) (all []Permission) {
	for _, r := range rules {
		for _, verb := range r.verbs {
			all = append(all, Permission{verb, r.group, r.resource, r.subresource, r.namespace})
		}
	}
	return all
}

// ForPoolers reports whether only escorts of poolers need it: then it may also be granted in the namespaces of poolers.
func (p Permission) ForPoolers() bool {
	p.Namespace = ""
	return slices.Contains(permissionsOf(poolers), p)
}

// forDeadline reports whether only drain.onDeadline: force needs it.
func (p Permission) forDeadline() bool { return p == Permission{"delete", "", "pods", "", ""} }

// Policies returns the names of the admission policies of infra/rbac.yaml.
func Policies() []string {
	return []string{"quiesce-deletions", "quiesce-events", "quiesce-evictions", "quiesce-nodes", "quiesce-pod-status", "quiesce-pods"}
}
