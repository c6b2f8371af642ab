package postgres

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

// crunchyAPI is the cluster of two as Crunchy's operator labels it.
func crunchyAPI(t *testing.T) (*api, Identity) {
	a := demoAPI()
	for i := range a.pods {
		a.pods[i].Labels = map[string]string{
			"postgres-operator.crunchydata.com/cluster": "demo", "postgres-operator.crunchydata.com/patroni": "demo-ha",
			"postgres-operator.crunchydata.com/instance": a.pods[i].Name,
		}
	}
	objects := maps.Clone(a.objects)
	for name, object := range objects {
		a.objects[strings.Replace(name, "demo", "demo-ha", 1)] = object
	}
	for pod, answer := range a.answers {
		a.answers[pod] = strings.Replace(answer, `"scope":"demo"`, `"scope":"demo-ha"`, 1)
	}
	identity, is := settings.Recognize(a.pods[0].Pod)
	require.True(t, is)
	require.Equal(t, Crunchy, identity.Operator)
	return a, identity
}

func postgresCluster(trigger, spec, status string) string {
	return `{"metadata":{"annotations":{"postgres-operator.crunchydata.com/trigger-switchover":"` + trigger + `"}},"spec":{"patroni":{"switchover":` + spec +
		`}},"status":{"patroni":{"switchover":` + status + `}}}`
}

func TestObserve_CrunchysOwnSwitchover_Holds(t *testing.T) {
	const on = `{"enabled":true}`
	for name, c := range map[string]struct{ custom, want string }{
		"never asked":     {`{"metadata":{},"spec":{},"status":{}}`, ""},
		"asked":           {postgresCluster("now", on, "null"), "a switchover of Crunchy's operator from pg-0 to any member"},
		"asked for one":   {postgresCluster("now", `{"enabled":true,"targetInstance":"pg-1","type":"Failover"}`, `"before"`), "a failover of Crunchy's operator from pg-0 to pg-1"},
		"done":            {postgresCluster("now", on, `"now"`), ""},
		"not enabled":     {postgresCluster("now", `{"enabled":false}`, "null"), ""},
		"no trigger":      {postgresCluster("", on, "null"), ""},
		"no such section": {postgresCluster("now", "null", "null"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, identity := crunchyAPI(t)
			a.custom = c.custom
			f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
			require.NoError(t, err)
			require.Equal(t, c.want, f.Pending)
			require.Empty(t, f.Warnings)
			if c.want != "" {
				require.Equal(t, []string{c.want + " has been requested"}, Assess(f, settings, time.Now()).Holds)
			}
		})
	}
}

// The permission is optional. Without it, nothing is claimed.
func TestObserve_CrunchysClusterNotReadable_IsAWarning(t *testing.T) {
	a, identity := crunchyAPI(t)
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.Equal(t, []string{"it is not known whether the operator has been asked for a switchover: there is no PostgresCluster demo"}, f.Warnings)
	a.errs["clusters"] = escort.ErrForbidden
	f, err = Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.Equal(t, []string{"it is not known whether a switchover of Crunchy's operator is requested: permission missing"}, f.Warnings)
	require.NotNil(t, Assess(f, settings, time.Now()).Candidate)
	require.NotContains(t, strings.Join(factsOf(objectsOfDemo()).Warnings, ""), "Crunchy")
}
