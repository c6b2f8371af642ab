package cloudnativepg

import (
	"context"
	"fmt"

	"quiesce/test/env/database"
)

// Pooler is the name of a cluster's own Pooler.
const Pooler = "own"

// deployPooler deploys the Pooler. Its pods ask the database for passwords, so the clients have a role of their own.
func (c *Cluster) deployPooler(ctx context.Context) error {
	if !c.options.Poolers.AuthQuery {
		return fmt.Errorf("a Pooler asks the database for passwords, so AuthQuery must be set")
	}
	return database.Apply(ctx, c.lab, templates, "pooler.yaml", struct {
		Options
		Pooler, Cluster, Image string
		Count, Port            int
	}{c.options, Pooler, Name, Image, database.DefaultPoolers, database.Port})
}

// SetPaused sets the field by which the operator pauses and resumes its Pooler. The pods act on it by themselves, and say nothing.
func (c *Cluster) SetPaused(ctx context.Context, paused bool) error {
	_, err := c.lab.Kubectl(ctx, "--namespace", c.options.Namespace, "patch", "pooler", Pooler, "--type=merge",
		"--patch", fmt.Sprintf(`{"spec":{"pgbouncer":{"paused":%t}}}`, paused))
	if err != nil {
		return fmt.Errorf("set paused of the Pooler: %w", err)
	}
	return nil
}
