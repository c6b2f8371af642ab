package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

// ErrUnknown is the error of a switchover of a cluster that does not exist, or that is not one of the phase's own.
var ErrUnknown = errors.New("unknown database cluster")

// Switchover does the move of a primary without a drain: the same checks, pause and marks. It returns drain.Held with the reason if
// nothing was moved.
func (e *Escort) Switchover(ctx context.Context, wanted drain.Switchover) (drain.EscortResult, error) {
	result := drain.EscortResult{Kind: Kind, Strategy: string(e.Strategy)}
	cluster, err := e.Connect(ctx)
	if err != nil {
		return result, err
	}
	identity, err := e.find(ctx, cluster, wanted)
	if err != nil {
		return result, err
	}
	clusters := e.Clusters(cluster)
	f, err := Observe(ctx, clusters, identity)
	if err != nil {
		return result, err
	}
	m := e.moveOf(cluster, clusters, f)
	m.result, m.rehearse = &result, wanted.Rehearse
	m.decide = func(f Facts) Assessment { return Assess(onlyCandidate(f, wanted.Candidate), e.Settings, time.Now()) }
	err = m.run(ctx)
	if wanted.Rehearse {
		result.Strategy = "rehearsal"
	}
	return result, err
}

// find returns the cluster of this name in the namespace, if it is one of the phase's own. Another phase may have another login.
func (e *Escort) find(ctx context.Context, cluster Cluster, wanted drain.Switchover) (Identity, error) {
	pods, err := cluster.PodsMatching(ctx, wanted.Namespace, func(p drain.Pod) bool {
		i, is := e.Recognize(p)
		return is && i.Cluster == wanted.Cluster && (e.Match == nil || e.Match(p))
	})
	if err != nil {
		return Identity{}, fmt.Errorf("find database cluster %s: %w", wanted, err)
	}
	for _, p := range pods {
		if i, is := e.Recognize(p.Pod); is {
			return i, nil
		}
	}
	return Identity{}, fmt.Errorf("%w: no pod of namespace %s is a member of %s", ErrUnknown, wanted.Namespace, wanted.Cluster)
}

// onlyCandidate returns the facts with every other replica unfit.
func onlyCandidate(f Facts, name string) Facts {
	if name == "" {
		return f
	}
	members := make([]Member, len(f.Members))
	copy(members, f.Members)
	for i := range members {
		if members[i].Name != name && members[i].Name != f.Leader {
			members[i].Leaving = "another candidate was asked for"
		}
	}
	f.Members = members
	return f
}
