package patroni

import (
	"context"
	"errors"
	"fmt"

	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

// Fixture is a cluster under load: poolers, workers and pgbench. Its target is the instance of the leader.
type Fixture struct {
	*poolers.Fixture
	Cluster *Cluster
	Pgbench *database.Pgbench
}

// warmUpCommits is how many transactions each worker commits before the setup is complete.
const warmUpCommits = 20

// SetUp makes a fixture of this name with this many groups of five workers, and waits until all work and all members stream. The group has
// one node more than members: a drained member starts there again. If it fails, it removes what it made.
func SetUp(ctx context.Context, pool *poolers.NodePool, name string, workerGroups int, o Options) (*Fixture, error) {
	f := &Fixture{}
	made, err := poolers.SetUp(ctx, pool, poolers.Options{
		Name: name, WorkerGroups: workerGroups, Nodes: o.Count() + 1,
		Deploy: func(ctx context.Context, l *lab.Lab, d database.Options) (*database.Database, error) {
			o.Namespace, o.Base, o.Group = d.Namespace, d.Base, d.Group
			var err error
			if f.Cluster, err = Deploy(ctx, l, o); err != nil {
				return nil, err
			}
			return f.Cluster.Database, nil
		},
		NodeOfTarget: func(ctx context.Context) (string, error) { return f.Cluster.NodeOfLeader(ctx) },
	})
	if err != nil {
		return nil, err
	}
	f.Fixture = made
	if err := f.begin(ctx); err != nil {
		return nil, errors.Join(err, made.TearDown(context.WithoutCancel(ctx)))
	}
	return f, nil
}

// begin starts pgbench, and waits until the cluster has recovered from that.
func (f *Fixture) begin(ctx context.Context) (err error) {
	if f.Pgbench, err = f.DB.StartPgbench(ctx, f.Cluster.Image()); err != nil {
		return err
	}
	if err := f.AwaitCommits(ctx, warmUpCommits); err != nil {
		return err
	}
	if err := f.Cluster.AwaitStreaming(ctx); err != nil {
		return err
	}
	return f.ResetStalls(ctx)
}

// Configuration returns the function's configuration, with the phase databases and these settings of its escort; empty: without that phase.
func (f *Fixture) Configuration(settings string) string {
	text := fmt.Sprintf("autoScalingGroups: [%s]\nmode: drain\nphases:\n", f.Name)
	if settings != "" {
		text += fmt.Sprintf("  - name: databases\n    match: {namespaces: [%s]}\n    escort: {postgres: {%s, %s}}\n", f.Name, f.Credentials(), settings)
	}
	return text + "  - name: workloads\n"
}
