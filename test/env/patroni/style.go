package patroni

import (
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/labels"
)

// Style is how an operator names and labels a cluster. The operator itself does not run.
type Style string

// The styles of plain Patroni and of the operators that use it.
const (
	Plain     Style = "plain"     // https://github.com/patroni/patroni/blob/v4.0.7/kubernetes/patroni_k8s.yaml
	Zalando   Style = "zalando"   // https://github.com/zalando/postgres-operator, images of https://github.com/zalando/spilo
	StackGres Style = "stackgres" // https://stackgres.io
	Crunchy   Style = "crunchy"   // https://github.com/CrunchyData/postgres-operator
)

const (
	// cluster is the name of every cluster. Each has a namespace of its own.
	cluster = "demo"
	crunchy = "postgres-operator.crunchydata.com/"
	// master is the value of the role label of the leader, before Patroni 4.0 or as an operator pins it.
	master = "master"
)

// names is what a style calls things.
type names struct {
	Scope         string // of Patroni's objects
	Container     string
	RESTSecret    string     // has the credentials of the REST API
	PatroniLabels labels.Set // of Patroni's objects and pods, as in its configuration
	ScopeLabel    string
	RoleLabel     string
	LeaderValue   string     // of the role label of the leader, if the operator pins it
	extra         labels.Set // of pods only
	separate      bool       // every member has a StatefulSet of its own
}

func (s Style) names() names {
	switch s {
	case Zalando:
		return names{
			Scope: cluster, Container: "postgres", RESTSecret: cluster + "-rest",
			PatroniLabels: labels.Set{"application": "spilo"}, ScopeLabel: "cluster-name", RoleLabel: "spilo-role", LeaderValue: master,
		}
	case StackGres:
		return names{
			Scope: cluster, Container: "patroni", RESTSecret: cluster,
			PatroniLabels: labels.Set{"app": "StackGresCluster", "stackgres.io/cluster": "true"},
			ScopeLabel:    "stackgres.io/cluster-scope", RoleLabel: "role", extra: labels.Set{"stackgres.io/cluster-name": cluster},
		}
	case Crunchy:
		return names{
			Scope: cluster + "-ha", Container: "database", RESTSecret: cluster + "-rest",
			PatroniLabels: labels.Set{crunchy + "cluster": cluster}, ScopeLabel: crunchy + "patroni", RoleLabel: crunchy + "role",
			LeaderValue: master, separate: true,
		}
	}
	return names{
		Scope: cluster, Container: "patroni", RESTSecret: cluster + "-rest",
		PatroniLabels: labels.Set{"application": "patroni"}, ScopeLabel: "cluster-name", RoleLabel: "role",
	}
}

// ObjectLabels are the labels by which Patroni selects its objects.
func (n names) ObjectLabels() labels.Set {
	return merge(n.PatroniLabels, labels.Set{n.ScopeLabel: n.Scope})
}

// PodLabels are the labels of all members.
func (n names) PodLabels() labels.Set { return merge(n.ObjectLabels(), n.extra) }

// leaderValue is the value of the role label of the leader in this version of Patroni.
func (n names) leaderValue(version string) string {
	switch {
	case n.LeaderValue != "":
		return n.LeaderValue
	case version == "3.0":
		return master
	}
	return "primary"
}

// set is a StatefulSet of members.
type set struct {
	Name     string
	Replicas int
	Labels   labels.Set
}

// sets returns the StatefulSets of a cluster with this many members.
func (n names) sets(members int) (sets []set) {
	if !n.separate {
		return []set{{Name: cluster, Replicas: members, Labels: n.PodLabels()}}
	}
	for i := range members {
		name := fmt.Sprintf("%s-instance1-%04d", cluster, i)
		sets = append(sets, set{Name: name, Replicas: 1, Labels: merge(n.PodLabels(), labels.Set{crunchy + "instance": name})})
	}
	return sets
}

func merge(all ...labels.Set) labels.Set {
	merged := labels.Set{}
	for _, one := range all {
		maps.Copy(merged, one)
	}
	return merged
}
