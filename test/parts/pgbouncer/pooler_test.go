package pgbouncer

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/postgres"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

func TestPooler_EachVersion_AppReachesDatabase(t *testing.T) {
	for _, version := range []string{Older, Newer} {
		t.Run(version, func(t *testing.T) {
			p := Start(t, version, Options{})
			answers, err := p.Connect(t).Exec(t.Context(), "SELECT 'here'").ReadAll()
			require.NoError(t, err)
			require.Equal(t, "here", string(answers[0].Rows[0][0]))
		})
	}
}

func TestSetPassword_Changed_EffectiveAtOnce(t *testing.T) {
	for _, version := range []string{Older, Newer} {
		t.Run(version, func(t *testing.T) {
			p := Start(t, version, Options{})
			p.SetPassword(t, Admin.Name, "changed")
			_, err := postgres.Connect(t.Context(), p.Addr, Admin, "pgbouncer")
			require.ErrorContains(t, err, "failed")
			console, err := postgres.Connect(t.Context(), p.Addr, User{Name: Admin.Name, Password: "changed"}, "pgbouncer")
			require.NoError(t, err)
			require.NoError(t, console.Close(context.WithoutCancel(t.Context())))
		})
	}
}

func TestPooler_Signaled_EndReported(t *testing.T) {
	p := Start(t, "1.24", Options{})
	require.Nil(t, p.State())
	p.Signal(t, syscall.SIGTERM)
	<-p.Ended()
	require.True(t, p.State().Success(), p.Log(t))
}
