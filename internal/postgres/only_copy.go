package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// diskTimeout bounds the look at the leader's claims: one request or two for each, which take milliseconds.
const diskTimeout = 3 * time.Second

// addDisk adds whether the leader's data follow it, if no replica has them. What a member said before is not enough: it may be broken since.
func (f *Facts) addDisk(ctx context.Context, clusters Clusters) {
	leader := f.LeaderMember()
	if leader == nil || f.isCopied() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	f.Disk = clusters.Disk(ctx, *leader)
}

// isCopied reports whether another member has the leader's data: it answers, and streams. Its node may leave too: once it
// leads, it is looked at in its turn.
func (f *Facts) isCopied() bool {
	leader := f.LeaderMember()
	return leader != nil && slices.ContainsFunc(f.Members, func(m Member) bool {
		return m.Name != f.Leader && m.Live && m.Role == Replica && !m.Terminating && (judge{Facts: *f, leader: *leader}).isStreaming(m)
	})
}

// isOnlyCopy reports whether the leader's data may exist on its node and nowhere else. That there are other pods, or reasons to hold,
// protects nothing.
func (f *Facts) isOnlyCopy() bool { return f.Disk != "" && !f.isCopied() }

// whyOnlyCopy returns why the leader's data may exist nowhere else; empty: they do.
func (f *Facts) whyOnlyCopy() string {
	switch {
	case !f.isOnlyCopy():
		return ""
	case len(f.Members) == 1 && f.Others == 0:
		return fmt.Sprintf("%s is the only member of its cluster, and its data may exist on this node only: %s", f.Leader, f.Disk)
	default:
		return fmt.Sprintf("no replica of %s streams, and its data may exist on this node only: %s", f.Leader, f.Disk)
	}
}

// holdOnlyCopy holds a primary whose data exist nowhere else, also when the drain's time is over. That is recorded: a later run that cannot
// read the cluster must not evict it for that.
func (r *run) holdOnlyCopy(ctx context.Context, a Assessment) error {
	if r.record == nil || !r.record.OnlyCopy || !r.request.OnlyCopy {
		if r.record == nil {
			r.record = &mark{Namespace: r.facts.Namespace, Cluster: r.facts.Cluster}
		}
		r.record.OnlyCopy = true // what a move left stays recorded
		if err := r.request.Save(ctx, json.RawMessage(r.record.text()), true); err != nil {
			r.log.Warn("failed to record that a primary's data exist on its node only", "error", escort.Printable(err.Error()))
		}
	}
	return &drain.Held{Reason: escort.Printable(strings.Join(a.Holds, "; ")), OnlyCopy: true}
}

// forgetOnlyCopy removes that record when a replica streams, or the volumes are found to follow. A pod that is there protects nothing.
func (r *run) forgetOnlyCopy(ctx context.Context) {
	if r.record == nil || !r.record.OnlyCopy || !r.facts.isCopied() && !r.facts.follows(r.pod.Name) {
		return
	}
	r.record.OnlyCopy = false
	record := json.RawMessage(r.record.text())
	if r.record.Since.IsZero() { // it is of no move
		r.record, record = nil, nil
	}
	if err := r.request.Save(ctx, record, false); err != nil {
		r.log.Warn("failed to remove the record that a primary's data exist on its node only", "error", escort.Printable(err.Error()))
	}
}

// follows reports whether the pod leads, and its volumes are known to follow it.
func (f *Facts) follows(name string) bool {
	return f.Leader == name && f.LeaderMember() != nil && f.Disk == ""
}
