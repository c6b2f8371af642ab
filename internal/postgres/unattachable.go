package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"quiesce/internal/escort"
)

// maxClaims bounds the claims of the leader that are looked at: its data, its log, and a few tablespaces.
const maxClaims = 8

// unattachableTimeout bounds the look at the leader's volumes: two requests for each claim, which take milliseconds.
const unattachableTimeout = 3 * time.Second

// addUnattachable adds whether another node can take the leader's volumes.
func (f *Facts) addUnattachable(ctx context.Context, clusters Clusters, leader Member) {
	ctx, cancel := context.WithTimeout(ctx, unattachableTimeout)
	defer cancel()
	why, err := clusters.Unattachable(ctx, leader)
	if f.Unattachable = why; err != nil {
		f.warn("it is not known whether another node can take the volumes of %s: %s", leader.Name, escort.Printable(err.Error()))
	}
}

// isUnattachable reports whether the leader could not start again after the move, and would be missed: its node leaves, its volumes find no
// other, and fewer than two replicas would stay. With two, one stands by until a node comes. A hold would then cost more than it saves:
// with one node per zone, its replacement often starts only after this node is terminated.
func (f *Facts) isUnattachable() bool {
	leader := f.LeaderMember()
	if f.Unattachable == "" || leader == nil || leader.Leaving == "" {
		return false
	}
	staying := 0
	for _, m := range f.Members {
		if m.Name != f.Leader && m.Live && m.Role == Replica && m.Leaving == "" {
			staying++
		}
	}
	return staying < 2
}

// Unattachable implements Clusters. Volumes of EBS stay in their zone. Without another node there, the old primary could not start again, and
// the cluster would be one member short until a node comes.
func (o *Observer) Unattachable(ctx context.Context, m Member) (why string, err error) {
	seen := map[string]bool{}
	for _, claim := range m.Claims[:min(len(m.Claims), maxClaims)] {
		zones, err := o.Cluster.VolumeZones(ctx, m.Namespace, claim, m.Zone)
		if err != nil {
			return "", err
		}
		names := strings.Join(zones, ", ")
		if names == "" || seen[names] {
			continue
		}
		seen[names] = true
		switch stays, err := o.Cluster.OtherNodeStays(ctx, zones, m.Node); {
		case err != nil:
			return "", err
		case !stays:
			return fmt.Sprintf("no other node of zone %s stays, and the volume of claim %s cannot leave it", names, claim), nil
		}
	}
	return "", nil
}
