package pgbouncer

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

var generations = []string{"1.18", "1.24"}

func TestPooler_EachVersion_AppReachesDatabase(t *testing.T) {
	for _, version := range generations {
		t.Run(version, func(t *testing.T) {
			p := Shared(t).Pooler(t, version, Options{})
			answers, err := p.Connect(t).Exec(t.Context(), "SELECT 'here'").ReadAll()
			require.NoError(t, err)
			require.Equal(t, "here", string(answers[0].Rows[0][0]))
		})
	}
}

func TestSetPassword_Changed_EffectiveAtOnce(t *testing.T) {
	for _, version := range generations {
		t.Run(version, func(t *testing.T) {
			p := Shared(t).Pooler(t, version, Options{})
			p.SetPassword(t, Admin.Name, "changed")
			_, err := connect(t.Context(), p.Addr, Admin, "pgbouncer")
			require.ErrorContains(t, err, "failed")
			console, err := connect(t.Context(), p.Addr, User{Admin.Name, "changed"}, "pgbouncer")
			require.NoError(t, err)
			require.NoError(t, console.Close(context.WithoutCancel(t.Context())))
		})
	}
}

func TestPooler_Signaled_EndReported(t *testing.T) {
	p := Shared(t).Pooler(t, "1.24", Options{})
	require.Nil(t, p.State())
	p.Signal(t, syscall.SIGTERM)
	<-p.Ended()
	require.True(t, p.State().Success(), p.Log(t))
}
