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

// PoolerOptions returns options that deploy a cluster, and keep it in made. The group has one node more than members: a drained member starts
// there again.
func PoolerOptions(o Options, made **Cluster) poolers.Options {
	return poolers.Options{
		Nodes: o.Count() + 1,
		Deploy: func(ctx context.Context, l *lab.Lab, d database.Options) (*database.Database, error) {
			o.Namespace, o.Base, o.Group = d.Namespace, d.Base, d.Group
			c, err := Deploy(ctx, l, o)
			if err != nil {
				return nil, err
			}
			*made = c
			return c.Database, nil
		},
		NodeOfTarget: func(ctx context.Context) (string, error) { return (*made).NodeOfLeader(ctx) },
	}
}

// SetUp makes a fixture of this name with this many groups of five workers, and waits until all work and all members stream. If it fails,
// it removes what it made.
func SetUp(ctx context.Context, pool *poolers.NodePool, name string, workerGroups int, o Options) (*Fixture, error) {
	f := &Fixture{}
	options := PoolerOptions(o, &f.Cluster)
	options.Name, options.WorkerGroups = name, workerGroups
	made, err := poolers.SetUp(ctx, pool, options)
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

// Configuration returns the function's configuration, as Configuration.
func (f *Fixture) Configuration(settings string) string { return Configuration(f.Fixture, settings) }

// Configuration returns the configuration of a function for this setup, with the phase databases and these settings of its escort; empty:
// without that phase.
func Configuration(f *poolers.Fixture, settings string) string {
	text := fmt.Sprintf("autoScalingGroups: [%s]\nmode: drain\nphases:\n", f.Name)
	if settings != "" {
		text += fmt.Sprintf("  - name: databases\n    match: {namespaces: [%s]}\n    escort: {postgres: {%s, %s}}\n", f.Name, f.Credentials(), settings)
	}
	return text + "  - name: workloads\n"
}
