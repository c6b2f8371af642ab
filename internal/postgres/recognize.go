package postgres

import (
	"maps"
	"slices"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// preset says how the members of one operator's clusters are labeled.
type preset struct {
	operator Operator
	labels   map[string]string // of every member; escort.AnyValue matches every value
	cluster  string            // the label that has the cluster's name
	scope    string            // the label that has Patroni's scope; empty: the cluster's name
	suffix   string            // of the scope, where the label is missing
}

// presets are in no order: no pod has the labels of two. The labels are from
// https://github.com/ongres/stackgres (PatroniUtil, StackGresContext),
// https://github.com/CrunchyData/postgres-operator/blob/main/internal/naming/labels.go, which Percona's operator uses as well, and
// https://github.com/cloudnative-pg/cloudnative-pg/blob/main/pkg/utils/labels_annotations.go.
var presets = []preset{
	{operator: StackGres, cluster: "stackgres.io/cluster-name", scope: "stackgres.io/cluster-scope",
		labels: map[string]string{"app": "StackGresCluster", "stackgres.io/cluster": "true"}},
	{operator: Crunchy, cluster: escort.CrunchyCluster, scope: "postgres-operator.crunchydata.com/patroni", suffix: "-ha",
		labels: map[string]string{"postgres-operator.crunchydata.com/instance": escort.AnyValue, "postgres-operator.crunchydata.com/patroni": escort.AnyValue}},
	{operator: CloudNativePG, cluster: escort.CloudNativePGCluster, labels: map[string]string{"cnpg.io/podRole": "instance"}},
}

// zalando has the labels of Zalando's operator, whose label of the cluster can be configured
// (https://github.com/zalando/postgres-operator/blob/master/docs/reference/operator_parameters.md, cluster_labels).
func (s Settings) zalando() preset {
	return preset{operator: Zalando, cluster: s.ScopeLabel, labels: map[string]string{"application": "spilo"}}
}

// plain has the labels of Patroni without an operator. They are not enough: poolers may have them too.
func (s Settings) plain() preset { return preset{operator: Patroni, cluster: s.ScopeLabel} }

// citusLabel is on members of a Citus cluster: several Patroni clusters that share a scope
// (https://patroni.readthedocs.io/en/latest/citus.html). They are not recognized.
const citusLabel = "citus-group"

// Recognize returns the cluster that the pod is a member of. It believes what operators and Patroni write on the pod, and never the
// pod's name. It reports false for other pods, and for one whose cluster has no name that an object can have.
func (s Settings) Recognize(p drain.Pod) (Identity, bool) {
	annotated := p.Annotations[escort.Annotation]
	if _, citus := p.Labels[citusLabel]; citus || annotated != "" && annotated != Kind {
		return Identity{}, false
	}
	for _, preset := range append(presets, s.zalando()) {
		if escort.HasLabels(p.Labels, preset.labels) {
			return preset.identify(p)
		}
	}
	if _, written := readStatus(p.Annotations); written || annotated == Kind {
		return s.plain().identify(p)
	}
	return Identity{}, false
}

// identify returns the identity that the labels say.
func (p preset) identify(pod drain.Pod) (Identity, bool) {
	i := Identity{Operator: p.operator, Namespace: pod.Namespace, Cluster: pod.Labels[p.cluster], Members: map[string]string{}}
	if !escort.IsName(i.Namespace) || !escort.IsName(i.Cluster) || !escort.IsLabel(p.cluster, i.Cluster) {
		return Identity{}, false
	}
	i.Members[p.cluster] = i.Cluster
	for key, value := range p.labels {
		if value != escort.AnyValue {
			i.Members[key] = value
		}
	}
	if i.Operator.UsesPatroni() {
		i.Scope = i.Cluster + p.suffix
		if scope := pod.Labels[p.scope]; scope != "" {
			i.Scope = scope
		}
		return i, escort.IsName(i.FailoverObject())
	}
	return i, true
}

// Same reports whether both are the same cluster.
func (i Identity) Same(other Identity) bool {
	return i.Operator == other.Operator && i.String() == other.String() && i.Scope == other.Scope && maps.Equal(i.Members, other.Members)
}

// Lead returns how long before its eviction the escort of a member begins at the latest: the last acts, and the time that clients wait.
func Lead(s config.Postgres) time.Duration { return lastLead + s.PauseTimeout }

// roleLabels are the labels that say which member leads, of the operators that answer a cordon with a switchover of their own
// (Zalando: moveMasterPodsOffNode; CloudNativePG: setPrimaryOnSchedulableNode).
var roleLabels = map[Operator][]string{Zalando: {"spilo-role"}, CloudNativePG: {"cnpg.io/instanceRole", "role"}}

// DelaysCordon returns whether the pod is a primary that quiesce moves, and whose operator would answer a cordon. The label is what the
// operator goes by. CloudNativePG labels an old primary until the new one leads: it may lead again if its operator discards the request.
func DelaysCordon(phase config.Phase) func(drain.Pod) bool {
	settings := Settings{Postgres: *phase.Postgres}
	if settings.Strategy != config.StrategySwitchover {
		return nil
	}
	return func(p drain.Pod) bool {
		i, member := settings.Recognize(p)
		return member && i.isMovable(p) && slices.ContainsFunc(roleLabels[i.Operator], func(label string) bool {
			return toRole(p.Labels[label]) == Primary || i.Operator == CloudNativePG && p.Labels[label] == cnpgUnhealthy
		})
	}
}

// isMovable reports whether quiesce moves primaries of this version of the operator, as far as the pod says. Otherwise the cordon is what
// makes the operator do so.
func (i Identity) isMovable(p drain.Pod) bool {
	if i.Operator.UsesPatroni() {
		return true
	}
	hold, _ := checkVersion(i.Operator, p.Annotations[escort.CloudNativePGVersion])
	return hold == ""
}

// Match returns the pods that the phase takes: members of databases. The phase's own match narrows them.
func Match(phase config.Phase) func(drain.Pod) bool {
	settings := Settings{Postgres: *phase.Postgres}
	return func(p drain.Pod) bool {
		_, member := settings.Recognize(p)
		return member && phase.Match.Allows(p.Namespace, p.PriorityClass, p.Labels)
	}
}
