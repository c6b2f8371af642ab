package pooler

import (
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Kind is the escort's name, in escort.Annotation and in reports.
const Kind = "pgbouncer"

// preset is how the poolers of one chart or operator are known, as it ships them.
type preset struct {
	name   string
	labels map[string]string // that the pods have; anyValue: whatever its value
	port   int               // that the pooler listens on
	none   string            // why there is no console over TCP unless somebody has made one; empty: there is one
	onTERM string            // what SIGTERM does, if it is not pgbouncer that receives it
}

const anyValue = ""

// presets are in no order: no pod has the labels of two. The labels are those of
// https://github.com/icoretech/helm/tree/main/charts/pgbouncer,
// https://github.com/zalando/postgres-operator/blob/master/pkg/cluster/connection_pooler.go,
// https://github.com/cloudnative-pg/cloudnative-pg/blob/main/pkg/specs/pgbouncer/deployments.go,
// https://github.com/CrunchyData/postgres-operator/blob/main/internal/naming/labels.go, which Percona's operator has as well, and
// https://github.com/apache/airflow/tree/main/chart/templates/pgbouncer.
//
// StackGres is left out on purpose. Its pgbouncer is a sidecar in the pod of the database: what ends with the pod is the
// PostgreSQL, and one that is the primary wants a switchover, not a pause. Such a pod must not be held for its pooler's sake.
var presets = []preset{
	{name: "icoretech's chart", port: 5432, labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}},
	{name: "Zalando's operator", port: 5432, labels: map[string]string{
		"application": "db-connection-pooler", "connection-pooler": anyValue,
	}},
	{name: "CloudNativePG", port: 5432, labels: map[string]string{"cnpg.io/poolerName": anyValue},
		none: "CloudNativePG gives its poolers a console on a Unix socket only",
		// https://github.com/cloudnative-pg/cloudnative-pg/blob/main/internal/cmd/manager/pgbouncer/run/cmd.go
		onTERM: "its manager passes SIGTERM on as SIGINT, which lets the transactions in flight end"},
	{name: "Crunchy's operator", port: 5432,
		labels: map[string]string{"postgres-operator.crunchydata.com/role": "pgbouncer"},
		none:   "Crunchy's operator configures no admin_users"},
	{name: "Airflow's chart", port: 6543, labels: map[string]string{"component": "pgbouncer", "tier": "airflow"}},
}

// Recognise tells whether these are a pooler's labels and annotations. That it is one is seen when its console answers: a pod
// recognised by mistake loses nothing.
func Recognise(labels, annotations map[string]string) bool {
	switch annotations[escort.Annotation] {
	case Kind:
		return true
	case "":
		return presetOf(labels) != nil
	default:
		return false
	}
}

// presetOf is the one whose labels these are; nil: none.
func presetOf(labels map[string]string) *preset {
	for i := range presets {
		if presets[i].knows(labels) {
			return &presets[i]
		}
	}
	return nil
}

func (p *preset) knows(labels map[string]string) bool {
	for key, want := range p.labels {
		if value, has := labels[key]; !has || want != anyValue && value != want {
			return false
		}
	}
	return true
}

// Match returns what the phase matches: an annotation decides; else the phase's own match; and where that has no label selector,
// what is known of charts and operators.
func Match(phase config.Phase) func(drain.Pod) bool {
	return func(p drain.Pod) bool {
		annotated := p.Annotations[escort.Annotation]
		if annotated == Kind {
			return len(phase.Match.Namespaces) == 0 || phase.Match.Namespaces.Match(p.Namespace)
		}
		known := phase.Match.Selector != nil && annotated == "" || Recognise(p.Labels, p.Annotations)
		return known && (phase.Match.Empty() || phase.Match.Matches(p.Namespace, p.PriorityClass, p.Labels))
	}
}
