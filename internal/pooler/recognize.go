package pooler

import (
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Kind is the escort's name, in escort.Annotation and in reports.
const Kind = "pgbouncer"

// preset describes the poolers of one chart or operator, as it ships them.
type preset struct {
	name      string
	labels    map[string]string // labels of the pods; escort.AnyValue matches every value
	port      int               // the port on which the pooler listens
	noConsole string            // why there is no console over TCP by default, as a sentence without a period; empty: there is one
	onTERM    string            // what SIGTERM does, as a sentence, if another process than pgbouncer receives it
}

// presets are in no order: no pod has the labels of two. Their labels are from
// https://github.com/icoretech/helm/tree/main/charts/pgbouncer,
// https://github.com/zalando/postgres-operator/blob/master/pkg/cluster/connection_pooler.go,
// https://github.com/cloudnative-pg/cloudnative-pg/blob/main/pkg/specs/pgbouncer/deployments.go,
// https://github.com/CrunchyData/postgres-operator/blob/main/internal/naming/labels.go, which Percona's operator uses as well, and
// https://github.com/apache/airflow/tree/main/chart/templates/pgbouncer.
//
// StackGres is missing on purpose. Its pgbouncer is a sidecar in the pod of the database: PostgreSQL ends with the pod, and a primary
// needs a switchover, not a pause. Such a pod must not wait for its pooler.
var presets = []preset{
	{name: "icoretech's chart", port: 5432, labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}},
	{name: "Zalando's operator", port: 5432, labels: map[string]string{
		"application": "db-connection-pooler", "connection-pooler": escort.AnyValue,
	}},
	{name: "CloudNativePG", port: 5432, labels: map[string]string{escort.CloudNativePGPooler: escort.AnyValue},
		noConsole: "CloudNativePG's pgbouncer has its console on a Unix socket only",
		// https://github.com/cloudnative-pg/cloudnative-pg/blob/main/internal/cmd/manager/pgbouncer/run/cmd.go
		onTERM: "Its manager turns SIGTERM into SIGINT, which lets open transactions finish."},
	{name: "Crunchy's operator", port: 5432,
		labels:    map[string]string{"postgres-operator.crunchydata.com/role": "pgbouncer"},
		noConsole: "Crunchy's operator configures no admin_users"},
	{name: "Airflow's chart", port: 6543, labels: map[string]string{"component": "pgbouncer", "tier": "airflow"}},
}

// Recognize reports whether these are the labels and annotations of a pooler. A pod that is recognized by mistake loses nothing: without
// a console it is evicted like any other.
func Recognize(labels, annotations map[string]string) bool {
	switch annotations[escort.Annotation] {
	case Kind:
		return true
	case "":
		return presetOf(labels) != nil
	default:
		return false
	}
}

// presetOf returns the preset with these labels; nil: none.
func presetOf(labels map[string]string) *preset {
	for i := range presets {
		if escort.HasLabels(labels, presets[i].labels) {
			return &presets[i]
		}
	}
	return nil
}

// Match returns the pods that the phase takes. The pod's annotation decides first, then the phase's own match. If that has no label
// selector, the presets decide.
func Match(phase config.Phase) func(drain.Pod) bool {
	return func(p drain.Pod) bool {
		annotated := p.Annotations[escort.Annotation]
		if annotated == Kind {
			return len(phase.Match.Namespaces) == 0 || phase.Match.Namespaces.Match(p.Namespace)
		}
		known := phase.Match.Selector != nil && annotated == "" || Recognize(p.Labels, p.Annotations)
		return known && phase.Match.Allows(p.Namespace, p.PriorityClass, p.Labels)
	}
}
