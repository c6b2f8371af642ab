package pooler

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

type labels = map[string]string

func TestRecognize_ChartsAndOperators_HaveTheirPreset(t *testing.T) {
	for name, pod := range map[string]labels{
		"icoretech's chart": {"app.kubernetes.io/name": "pgbouncer", "app.kubernetes.io/instance": "orders"},
		"Zalando's operator": {
			"application": "db-connection-pooler", "connection-pooler": "orders-pooler", "cluster-name": "orders", "spilo-role": "master",
		},
		"CloudNativePG":      {"cnpg.io/poolerName": "orders-rw", "cnpg.io/cluster": "orders", "cnpg.io/podRole": "pooler"},
		"Crunchy's operator": {"postgres-operator.crunchydata.com/role": "pgbouncer", "postgres-operator.crunchydata.com/cluster": "orders"},
		"Airflow's chart":    {"component": "pgbouncer", "tier": "airflow", "release": "jobs"},
	} {
		preset := presetOf(pod)
		require.NotNil(t, preset, name)
		require.Equal(t, name, preset.name)
		require.NotZero(t, preset.port, name)
		require.True(t, Recognize(pod, nil), name)
	}
}

func TestRecognize_OtherPods_AreNot(t *testing.T) {
	for name, pod := range map[string]labels{
		"no labels":                        nil,
		"Zalando's database":               {"application": "spilo", "cluster-name": "orders", "spilo-role": "master"},
		"half of Zalando's pooler":         {"application": "db-connection-pooler"},
		"CloudNativePG's database":         {"cnpg.io/cluster": "orders", "cnpg.io/podRole": "instance"},
		"Crunchy's database":               {"postgres-operator.crunchydata.com/role": "master"},
		"Airflow's scheduler":              {"component": "scheduler", "tier": "airflow"},
		"a component called pgbouncer":     {"component": "pgbouncer"},
		"StackGres' database with sidecar": {"app": "StackGresCluster", "stackgres.io/cluster": "true", "role": "primary"},
	} {
		require.False(t, Recognize(pod, nil), name)
	}
}

func TestRecognize_Annotation_WinsOverLabels(t *testing.T) {
	pooler := labels{"app.kubernetes.io/name": "pgbouncer"}
	for annotation, want := range map[string]bool{"pgbouncer": true, "none": false, "pgcat": false} {
		require.Equal(t, want, Recognize(nil, labels{escort.Annotation: annotation}), annotation)
		require.Equal(t, want, Recognize(pooler, labels{escort.Annotation: annotation}), annotation)
	}
	require.True(t, Recognize(pooler, labels{escort.Annotation: ""}))
}

func TestPresets_DoNotOverlap(t *testing.T) {
	for i := range presets {
		for j := range presets {
			require.Equal(t, i == j, escort.HasLabels(presets[j].labels, presets[i].labels), "%s, %s", presets[i].name, presets[j].name)
		}
	}
}

func TestPresets_NoConsole_SaySo(t *testing.T) {
	without := map[string]bool{"CloudNativePG": true, "Crunchy's operator": true}
	for _, p := range presets {
		require.Equal(t, without[p.name], p.noConsole != "", p.name)
	}
}
