package postgres

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/env"
	"quiesce/test/env/cloudnativepg"
	"quiesce/test/env/database"
	"quiesce/test/parts/lab"
)

// operator installs CloudNativePG once.
var operator = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	root, err := env.Root()
	if err != nil {
		return err
	}
	base, err := shared.BaseNode(ctx)
	if err != nil {
		return err
	}
	return cloudnativepg.Install(ctx, shared.Lab, root, base.Node)
})

// As with Patroni: nothing fails while the poolers are paused.
func TestCloudNativePG_SwitchoverUnderPause_NothingFails(t *testing.T) {
	p := prepare(t)
	require.NoError(t, operator())
	var made *cloudnativepg.Cluster
	o := cloudnativepg.Options{Poolers: database.Options{Version: "1.24"}}
	p.setUp(o.Count(), func(l *lab.Lab, d database.Options) (cluster, *database.Database, error) {
		o.Namespace, o.Base, o.Group = d.Namespace, d.Base, d.Group
		var err error
		if made, err = cloudnativepg.Deploy(p.ctx, l, o); err != nil {
			return nil, nil, err
		}
		return made, made.Database, nil
	})
	candidate, err := made.Candidate(p.ctx)
	require.NoError(t, err)
	p.underPause(func() { require.NoError(t, made.SwitchOver(p.ctx, candidate)) })
	p.requireNothingFailed()
	require.NoError(t, made.AwaitStreaming(p.ctx))
}
