package wire

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/postgres"
)

// A pod of another namespace must not get the password, whatever its labels are.
func TestConsoleLogins_OtherNamespace_IsAnError(t *testing.T) {
	connect := func(context.Context) (*kube.Client, error) { return nil, errors.New("no connection") }
	for name, c := range map[string]struct {
		settings config.Console
		errs     map[string]string // by namespace; empty: no login and no error
	}{
		"a Secret": {
			config.Console{Secret: &config.SecretRef{Namespace: "db", Name: "pgbouncer-admin"}},
			map[string]string{"db": "no connection", "web": "credentials are for namespace db, not web"},
		},
		"Secrets Manager": {
			config.Console{SecretARN: "arn", Namespaces: config.Globs{"pool-*"}},
			map[string]string{"web": "credentials are for namespace pool-*, not web"},
		},
		"none": {config.Console{}, map[string]string{"db": "", "web": ""}},
	} {
		for namespace, want := range c.errs {
			var got string
			for _, err := range (Parts{Connect: connect}).consoleLogins(c.settings)(t.Context(), namespace) {
				require.Error(t, err, name)
				got = err.Error()
			}
			require.Equal(t, want, got, name)
		}
	}
}

// A person's switchover goes to the phase that recognizes the cluster, and each phase resumes with its own login.
func TestPrimaries_SeveralPhases_EachIsAsked(t *testing.T) {
	denied := errors.New("no route to the API server")
	var asked []string
	phase := func(name string) *postgres.Escort {
		return &postgres.Escort{Connect: func(context.Context) (postgres.Cluster, error) { asked = append(asked, name); return nil, denied }}
	}
	all := Primaries{phase("a"), phase("b")}
	_, err := all.Resume(t.Context())
	require.ErrorIs(t, err, denied)
	require.Equal(t, []string{"a", "b"}, asked)
	_, err = all.Switchover(t.Context(), drain.Switchover{Namespace: "db", Cluster: "demo"})
	require.ErrorIs(t, err, denied)
	require.Equal(t, []string{"a", "b", "a"}, asked, "that the cluster cannot be asked does not make it unknown")
}

// A surge removes the label that the poolers are chosen by. The old pooler has all the clients still.
func TestIsPooler_LabelRemovedByASurge_StillIsOne(t *testing.T) {
	is := isPooler(config.Config{})
	require.True(t, is(drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}}))
	require.True(t, is(drain.Pod{Labels: map[string]string{drain.EscortLabel: "surge"}}))
	require.False(t, is(drain.Pod{Labels: map[string]string{"app.kubernetes.io/name": "web"}}))
}

func TestPhases_Databases_EachEscortKnowsItsOwnPods(t *testing.T) {
	phase := func(name, namespace string) config.Phase {
		return config.Phase{Name: name, Match: config.Match{Namespaces: config.Globs{namespace}}, Postgres: &config.Postgres{ScopeLabel: "cluster-name"}}
	}
	member := drain.Pod{Labels: map[string]string{"application": "spilo", "cluster-name": "pg"}}
	member.Namespace = "b"
	var matches []bool
	for _, p := range (Parts{Settings: config.Config{Phases: []config.Phase{phase("a", "a"), phase("b", "b")}}}).Phases() {
		matches = append(matches, p.Escort.(*postgres.Escort).Match(member))
	}
	require.Equal(t, []bool{false, true}, matches)
}
