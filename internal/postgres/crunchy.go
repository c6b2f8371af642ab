package postgres

import (
	"cmp"
	"context"
	"fmt"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// The custom resource of a cluster of Crunchy's operator, and the annotation that asks it for a switchover
// (https://access.crunchydata.com/documentation/postgres-operator/latest/tutorials/cluster-management/administrative-tasks#changing-the-primary).
const (
	crunchyGroup    = "postgres-operator.crunchydata.com/v1beta1"
	crunchyClusters = "postgresclusters"
	crunchyTrigger  = "postgres-operator.crunchydata.com/trigger-switchover"
)

// crunchyCluster is the part of a PostgresCluster that matters for a switchover.
type crunchyCluster struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		Patroni struct {
			Switchover *struct {
				Enabled        bool
				TargetInstance string
				Type           string // Switchover, or Failover
			}
		}
	}
	Status struct {
		Patroni struct{ Switchover *string }
	}
}

// pending returns the switchover that the operator has still to do; empty: none. The operator does one for each value of the annotation,
// and then writes the value to the status
// (https://github.com/CrunchyData/postgres-operator/blob/main/internal/controller/postgrescluster/patroni.go, reconcilePatroniSwitchover).
func (c *crunchyCluster) pending(leader string) string {
	wanted, done := c.Spec.Patroni.Switchover, c.Status.Patroni.Switchover
	trigger := c.Metadata.Annotations[crunchyTrigger]
	if wanted == nil || !wanted.Enabled || trigger == "" || done != nil && *done == trigger {
		return ""
	}
	kind := "switchover"
	if wanted.Type == "Failover" {
		kind = "failover"
	}
	return drain.Short(fmt.Sprintf("a %s of Crunchy's operator from %s to %s", kind, cmp.Or(leader, "none"), orAny(wanted.TargetInstance)))
}

// addCrunchy adds the switchover that Crunchy's operator was asked for. The permission is optional.
func (o *Observer) addCrunchy(ctx context.Context, f *Facts) {
	var c crunchyCluster
	found, err := o.Cluster.Custom(ctx, crunchyGroup, crunchyClusters, f.Namespace, f.Cluster, &c)
	switch {
	case err != nil:
		f.warn("it is not known whether a switchover of Crunchy's operator is requested: %s", escort.Printable(err.Error()))
	case !found: // Percona's operator has its own resource
		f.warn("it is not known whether the operator has been asked for a switchover: there is no PostgresCluster %s", f.Cluster)
	case f.Pending == "":
		f.Pending = c.pending(f.Leader)
	}
}

// warn adds what is said of a move that is safe.
func (f *Facts) warn(format string, args ...any) {
	f.Warnings = append(f.Warnings, fmt.Sprintf(format, args...))
}
