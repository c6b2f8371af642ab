package drain

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBlockedExplain_EachCause_WhyAndHelp(t *testing.T) {
	for name, c := range map[string]struct {
		blocked   Blocked
		why, help string
	}{
		"numbers": {
			Blocked{PDBs: []string{"db/web"}, Reason: "no disruption allowed", First: &PDB{Name: "db/web", DesiredHealthy: 2, CurrentHealthy: 2, ExpectedPods: 3}},
			"PodDisruptionBudget db/web blocks its eviction: 2 healthy pods are needed, 2 of 3 are healthy", "get its other pods ready",
		},
		"the server's words": {
			Blocked{PDBs: []string{"db/web"}, Reason: "The disruption budget web needs 2 healthy pods and has 2 currently"},
			"PodDisruptionBudget db/web blocks its eviction: The disruption budget web needs 2 healthy pods and has 2 currently", "raise its replicas",
		},
		"never": {
			Blocked{PDBs: []string{"db/web"}, Reason: "can never allow a disruption: wants 1 healthy pods of 1", Never: true},
			"PodDisruptionBudget db/web blocks its eviction: it can never allow a disruption: wants 1 healthy pods of 1", "raise its replicas, or change",
		},
		"two": {
			Blocked{PDBs: []string{"db/a", "db/b"}, Reason: "more than one selects it", Never: true},
			"more than one selects it; db/a, db/b", "only one PodDisruptionBudget",
		},
	} {
		t.Run(name, func(t *testing.T) {
			why, help := c.blocked.explain()
			require.Equal(t, c.why, why)
			require.Contains(t, help, c.help)
		})
	}
}

func TestBlockedExplain_LongReason_Bounded(t *testing.T) {
	blocked := Blocked{PDBs: []string{"db/web"}, Reason: "cannot allow: " + strings.Repeat("x", 5000), Never: true}
	why, _ := blocked.explain()
	require.Less(t, len(why), 500)
}
