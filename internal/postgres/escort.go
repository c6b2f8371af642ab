package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// lastLead is how long before a member must be told to stop the last acts begin: the wait for Leases, one hold, and an eviction.
	lastLead = 90 * time.Second
	// lastMove and lastPause are the least time left for a last move, and for a pause around the eviction. With less, the pod is evicted.
	lastMove, lastPause = 45 * time.Second, 15 * time.Second
	// evictTimeout bounds an eviction for which the escort's own time is over.
	evictTimeout = 10 * time.Second
	// verifyTime is how long one run waits until the old primary streams. Patroni restarts it as a replica within seconds; after that the
	// drain's other phases go on, and a later run looks again.
	verifyTime = 20 * time.Second
	// verifyInterval is between two looks at all members.
	verifyInterval = 2 * time.Second
	// verifyLimit is how long after a move the old primary is waited for at all. One that does not stream by then needs a person, and its
	// pod on a node that ends helps no client.
	verifyLimit = 5 * time.Minute
)

// Escort implements drain.Escort for members of database clusters.
type Escort struct {
	Settings
	Connect  func(ctx context.Context) (Cluster, error)
	Clusters func(Cluster) Clusters // where facts come from: an Observer over the same cluster
	Consoles PoolerConsoles

	Match            func(drain.Pod) bool // reports whether the pod is one of the phase's own; nil: each member is
	IsPooler         func(drain.Pod) bool // reports whether pgbouncer runs in the pod; nil: no poolers are looked for
	PoolerNamespaces []string             // where poolers are looked for, beside the database's namespace
	Asker            Asker                // asks Patroni over HTTP; nil: the function has no route to pods
	// Remind has Resume called after a time, though this invocation dies: it is called before anything is paused. Nil: only the sweep does.
	Remind func(ctx context.Context, after time.Duration) error
	Log    *slog.Logger // of what no drain asked for
}

func (e *Escort) log() *slog.Logger { return cmp.Or(e.Log, slog.Default()) }

func (e *Escort) release(free func() error) {
	if err := free(); err != nil {
		e.log().Warn("failed to release group lease, it will expire", "error", escort.Printable(err.Error()))
	}
}

// run is the escort of one member.
type run struct {
	*Escort
	request  drain.EscortRequest
	log      *slog.Logger
	result   drain.EscortResult
	cluster  Cluster
	clusters Clusters
	pod      escort.Pod
	facts    Facts
	record   *mark // what an earlier run recorded; nil: nothing
}

// Run implements drain.Escort. It returns drain.Held while the member must stay.
func (e *Escort) Run(ctx context.Context, request drain.EscortRequest) (drain.EscortResult, error) {
	r := e.begin(request)
	err := r.escortMember(ctx)
	for r.looksAgain(err) && escort.Sleep(ctx, lastRetry) == nil {
		err = r.escortMember(ctx)
	}
	return r.result, err
}

// Undo implements drain.Escort.
func (e *Escort) Undo(ctx context.Context, request drain.EscortRequest) error {
	r := e.begin(request)
	if !request.Recorded {
		return nil
	}
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.recover(ctx); err != nil {
		return err
	}
	return request.Save(ctx, nil, false)
}

// ShutDown implements drain.Escort. No operator runs members as a DaemonSet: such a pod is left as it is.
func (e *Escort) ShutDown(context.Context, drain.EscortRequest) (drain.EscortResult, error) {
	return drain.EscortResult{Kind: Kind, Strategy: string(config.StrategyPlain), Reason: "members of a DaemonSet are not moved"}, nil
}

func (e *Escort) begin(request drain.EscortRequest) *run {
	r := &run{Escort: e, request: request, log: cmp.Or(request.Log, e.log()), result: drain.EscortResult{Kind: Kind, Strategy: string(e.Strategy)}}
	if request.Recorded {
		var err error
		if r.record, err = readMark(string(request.Record)); err != nil {
			r.log.Warn("ignored an escort's record that no escort writes", "error", err.Error())
		}
	}
	return r
}

func (r *run) connect(ctx context.Context) (err error) {
	if r.cluster, err = r.Connect(ctx); err == nil {
		r.clusters = r.Clusters(r.cluster)
	}
	return err
}

// escortMember finds out what the pod is, and gets it off its node if it may go.
func (r *run) escortMember(ctx context.Context) error {
	r.pod.Pod = r.request.Pod
	if err := r.connect(ctx); err != nil {
		r.cluster = nil
		return r.heldUnlessLast(ctx, holdUnread("%v", err))
	}
	recovered := r.recover(ctx)
	pod, err := r.cluster.Inspect(ctx, r.request.Ref)
	switch {
	case err != nil:
		return r.heldUnlessLast(ctx, holdUnread("cannot look at the pod: %v", err))
	case pod == nil || !pod.Deleted.IsZero():
		return nil // gone, or told to stop already
	case recovered != nil && !r.isLast():
		return recovered
	}
	r.pod = *pod
	identity, is := r.Recognize(pod.Pod)
	switch {
	case !is:
		return r.evictPlainly(ctx, "it is no member of a database cluster that quiesce knows")
	case r.Strategy == config.StrategyPlain:
		return r.evictPlainly(ctx, "")
	}
	if r.facts, err = Observe(ctx, r.clusters, identity); err != nil {
		return r.heldUnlessLast(ctx, holdUnread("cannot read the cluster: %v", err))
	}
	return r.escortKnown(ctx)
}

// escortKnown decides by what the pod is in its cluster.
func (r *run) escortKnown(ctx context.Context) error {
	if r.facts.Leader != r.pod.Name {
		r.facts.addDisk(ctx, r.clusters, r.pod.Name)
	}
	r.forgetOnlyCopy(ctx)
	member := r.facts.Member(r.pod.Name)
	switch {
	case r.facts.isMoving() && !r.isOverdue():
		return hold("its cluster is moving: %s has been requested", r.facts.Pending)
	case r.facts.Leader == r.pod.Name:
		return r.escortPrimary(ctx)
	case r.facts.isOnlyCopy(r.pod.Name):
		return r.holdOnlyCopy(ctx, AssessReplica(r.facts, r.pod.Name, time.Now()))
	case r.facts.Leader == "":
		return r.heldUnlessLast(ctx, hold("no member leads the cluster"))
	case member != nil && member.Live && member.Role == Primary:
		return r.heldUnlessLast(ctx, hold("it says that it leads, but the leader is %s", r.facts.Leader))
	case r.record != nil && r.record.Leader == r.pod.Name:
		if err := r.verify(ctx); err != nil {
			return r.heldUnlessLast(ctx, err)
		}
	}
	return r.escortReplica(ctx)
}

func (r *run) escortPrimary(ctx context.Context) error {
	a := Assess(r.facts, r.Settings, time.Now())
	switch {
	case a.Plain != "":
		return r.evictPlainly(ctx, a.Plain)
	case r.facts.isOnlyCopy(r.pod.Name):
		return r.holdOnlyCopy(ctx, a.Holds)
	case r.record != nil && r.record.OnlyCopy:
		return r.heldUnlessLast(ctx, hold("%s", strings.Join(a.Holds, "; ")))
	case r.isLast():
		return r.escortLast(ctx)
	case r.Strategy == config.StrategyOperator:
		return hold("its operator has not moved the primary yet")
	}
	m := r.newMove()
	if err := m.run(ctx); err != nil {
		return r.notPastLastActs(err)
	}
	r.record = &m.mark
	if err := r.verify(ctx); err != nil {
		return err
	}
	return r.escortReplica(ctx)
}

// newMove returns a move of the facts' leader.
func (r *run) newMove() *move {
	m := r.moveOf(r.cluster, r.clusters, r.facts)
	m.log, m.result = r.log, &r.result
	m.save = func(ctx context.Context, record json.RawMessage) error { return r.request.Save(ctx, record, false) } // an only copy is not moved
	return m
}

// moveOf returns a move without a drain.
func (e *Escort) moveOf(cluster Cluster, clusters Clusters, f Facts) *move {
	m := &move{Escort: e, log: e.log(), cluster: cluster, clusters: clusters, facts: f, result: &drain.EscortResult{Kind: Kind}, way: e.wayOf(f)}
	m.decide = func(f Facts) Assessment { return Assess(f, e.Settings, time.Now()) }
	return m
}

// wayOf returns how the cluster is asked to move.
func (e *Escort) wayOf(f Facts) way {
	if !f.Operator.UsesPatroni() {
		return byStatus{}
	}
	if leader := f.LeaderMember(); e.Asker != nil && e.ConnectVia == config.ViaPodIP && leader != nil && !leader.API.TLS && leader.API.Port != 0 {
		return byREST{e.Asker}
	}
	return byKey{}
}

// escortReplica evicts a replica, unless its cluster moves or needs it. What decides is read under the cluster's Lease: another drain may
// have evicted a member, or the replica may lead by now.
func (r *run) escortReplica(ctx context.Context) error {
	lease, err := r.cluster.AcquireMarkedLease(ctx, clusterLease(r.facts.Identity))
	switch {
	case r.isLast():
	case err != nil:
		return hold("cannot take turns with its cluster: %v", err)
	case lease == nil:
		return hold("its cluster is moving")
	}
	if lease != nil {
		defer r.release(lease.Release)
		if lease.Mark() != "" {
			if _, err := r.clearMark(ctx, r.cluster, lease); err != nil && !r.isLast() {
				return hold("an interrupted move cannot be undone: %v", err)
			}
		}
	}
	facts, err := observeMembers(ctx, r.clusters, r.facts.Identity)
	if err == nil {
		r.facts = facts
		r.facts.addDisk(ctx, r.clusters, r.pod.Name)
	}
	holds := AssessReplica(r.facts, r.pod.Name, time.Now())
	switch {
	case r.facts.isOnlyCopy(r.pod.Name):
		return r.holdOnlyCopy(ctx, holds)
	case r.isLast():
		return r.evictPlainly(ctx, "")
	case err != nil:
		return hold("cannot read the cluster: %v", err)
	case r.facts.Leader == r.pod.Name:
		return hold("it has become the primary")
	case len(holds) > 0:
		return hold("%s", holds[0])
	}
	if err := lease.Lost(); err != nil { // reading took its time
		return hold("the Lease of its cluster was lost: %v", err)
	}
	return r.evictPlainly(ctx, "")
}

// verify waits until the old primary streams from the new one. Until then its pod may be the second copy of the last transactions.
func (r *run) verify(ctx context.Context) error {
	why := ""
	err := escort.Poll(ctx, time.Now().Add(verifyTime), verifyInterval, func() (bool, error) {
		f, err := observeMembers(ctx, r.clusters, r.facts.Identity)
		if err != nil {
			why = err.Error()
			return false, nil
		}
		r.facts = f
		why = whyNotStreaming(f, r.pod.Name)
		return why == "", nil
	})
	switch leader := r.facts.LeaderMember(); {
	case err == nil && leader != nil && leader.Leaving != "":
		escort.AddReason(&r.result, "the new primary's node does not stay either: "+leader.Leaving)
		return nil
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case time.Since(r.record.Since) > verifyLimit:
		escort.AddReason(&r.result, why)
		return nil
	}
	return hold("%s", why)
}

// whyNotStreaming returns why the old primary is no replica of the new one yet; empty: it is.
func whyNotStreaming(f Facts, old string) string {
	member, leader := f.Member(old), f.LeaderMember()
	switch {
	case member == nil || member.Terminating:
		return "" // nothing to wait for
	case leader == nil || leader.Name == old:
		return "the new primary does not lead any more"
	case !(chooser{Facts: f, leader: *leader}).isStreaming(*member):
		return "the old primary does not stream from " + leader.Name + " yet"
	}
	return ""
}

// evictPlainly evicts the pod with its whole grace, and returns the API server's answer as it is.
func (r *run) evictPlainly(ctx context.Context, reason string) error {
	if r.result.HeldBackSeconds == 0 && reason != "" {
		r.result.Strategy = string(config.StrategyPlain)
	}
	escort.AddReason(&r.result, reason)
	err := r.evict(ctx)
	if refusal, refused := errors.AsType[escort.Refusal](err); refused {
		return refusal.Answer
	}
	return err
}

// evict evicts the pod with its whole grace. At the end it does so though ctx has ended: nothing else tells a member to stop. It does not
// if the pod is another's by now.
func (r *run) evict(ctx context.Context) error {
	if err := notOurs(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil && r.isLast() {
		fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), evictTimeout)
		defer cancel()
		ctx = fresh
	}
	return escort.Evict(ctx, r.cluster, r.request, drain.EvictOptions{Grace: r.pod.Grace})
}
