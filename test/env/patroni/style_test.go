package patroni

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/labels"
)

func TestStyle_LeaderLabels_AsTheOperatorWritesThem(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		want    labels.Set
	}{
		"plain, before 4.0": {Options{Version: "3.0"}, labels.Set{"application": "patroni", "cluster-name": "demo", "role": "master"}},
		"plain, from 4.0":   {Options{Version: "4.0", Style: Plain}, labels.Set{"application": "patroni", "cluster-name": "demo", "role": "primary"}},
		"Zalando": {
			Options{Version: "4.0", Style: Zalando}, labels.Set{"application": "spilo", "cluster-name": "demo", "spilo-role": "master"},
		},
		"StackGres": {
			Options{Version: "4.0", Style: StackGres},
			labels.Set{"app": "StackGresCluster", "stackgres.io/cluster": "true", "stackgres.io/cluster-scope": "demo", "role": "primary"},
		},
		"Crunchy": {
			Options{Version: "4.0", Style: Crunchy},
			labels.Set{crunchy + "cluster": "demo", crunchy + "patroni": "demo-ha", crunchy + "role": "master"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, (&Cluster{options: c.options, names: c.options.Style.names()}).leaderLabels())
		})
	}
}

func TestSets_Crunchy_OnePerMember(t *testing.T) {
	sets := Crunchy.names().sets(2)
	require.Equal(t, []string{"demo-instance1-0000", "demo-instance1-0001"}, []string{sets[0].Name, sets[1].Name})
	require.Equal(t, "demo-instance1-0001", sets[1].Labels[crunchy+"instance"])
	require.Equal(t, []set{{Name: "demo", Replicas: 3, Labels: Plain.names().PodLabels()}}, Plain.names().sets(3))
}
