package doctor

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/postgres"
)

// databaseGroups are the API groups of operators that run PostgreSQL.
var databaseGroups = []string{
	"postgresql.cnpg.io", "acid.zalan.do", "postgres-operator.crunchydata.com", "stackgres.io", "pgv2.percona.com", "upstream.pgv2.percona.com",
}

// owned returns the object that made the PDB, and would undo a change of it; empty: none.
func (p pdb) owned() string {
	for _, o := range p.OwnerReferences {
		return fmt.Sprintf("%s %s", strings.ToLower(o.Kind), o.Name)
	}
	return ""
}

// keepsDatabase reports whether the PDB is of an operator of PostgreSQL, or selects members of databases. Such a PDB protects data: a primary
// is moved before it is evicted, and a member that is not Ready may have the only copy.
func (v *view) keepsDatabase(p pdb) bool {
	if slices.ContainsFunc(p.OwnerReferences, isDatabaseOwner) || v.isMember(p.Namespace, p.Labels) {
		return true
	}
	if p.Spec.Selector != nil && v.isMember(p.Namespace, p.Spec.Selector.MatchLabels) {
		return true
	}
	return slices.ContainsFunc(v.podsIn[p.Namespace], func(member pod) bool {
		if !p.selects(member) {
			return false
		}
		_, is := v.databaseSettings().Recognize(member.escort.Pod)
		return is || v.isMember(member.Namespace, member.Labels)
	})
}

func isDatabaseOwner(o metav1.OwnerReference) bool {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	return slices.Contains(databaseGroups, group)
}

// isMember reports whether an object has the labels of a database's members. Zalando's label of the cluster may have any name.
func (v *view) isMember(namespace string, labels map[string]string) bool {
	_, is := v.databaseSettings().Recognize(drain.Pod{Ref: drain.Ref{Namespace: namespace}, Labels: labels})
	return is || labels["application"] == "spilo" || labels[escort.CloudNativePGCluster] != "" && labels[escort.CloudNativePGPooler] == ""
}

// databaseSettings returns the settings of the phase of databases.
func (v *view) databaseSettings() postgres.Settings {
	settings := postgres.Settings{Postgres: config.Postgres{Strategy: config.StrategySwitchover, ScopeLabel: defaultScope}}
	for _, phase := range v.Config.Phases {
		if phase.Postgres != nil {
			settings.Postgres = *phase.Postgres
		}
	}
	return settings
}

// defaultScope is the label with which Patroni names a cluster (https://patroni.readthedocs.io/en/latest/kubernetes.html).
const defaultScope = "cluster-name"

// isClusterAutoscaler reports whether the pod is one of Cluster Autoscaler, as its chart and its manifests make it
// (https://github.com/kubernetes/autoscaler/tree/master/cluster-autoscaler/cloudprovider/aws/examples).
func isClusterAutoscaler(p pod) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return strings.Contains(c.Image, "cluster-autoscaler") })
}
