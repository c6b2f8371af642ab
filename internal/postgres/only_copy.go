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

// diskTimeout bounds the look at a member's claims: one request or two for each, which take milliseconds.
const diskTimeout = 3 * time.Second

// addDisk adds whether a member's data follow it, if no other member has them. What a member said before is not enough: it may be broken
// since.
func (f *Facts) addDisk(ctx context.Context, clusters Clusters, name string) {
	m := f.Member(name)
	if m == nil || f.isCopied(name) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	m.Disk = clusters.Disk(ctx, *m)
}

// isUp reports whether a member runs, because it answers. If no member answers, quiesce can ask none of them, and what Kubernetes says of the
// leader counts. Otherwise each replica of such clusters would be held.
func (f *Facts) isUp(m Member) bool {
	return m.Live || f.isUnasked() && m.Name == f.Leader && m.Ready && !m.Terminating
}

// isUnasked reports whether no member answers.
func (f *Facts) isUnasked() bool {
	return !slices.ContainsFunc(f.Members, func(m Member) bool { return m.Live })
}

// isCopied reports whether another member runs and has the data of this one. Its node may leave too: it is looked at in its turn.
func (f *Facts) isCopied(name string) bool {
	m := f.Member(name)
	return m != nil && slices.ContainsFunc(f.Members, func(other Member) bool {
		return other.Name != name && f.isUp(other) && !other.Terminating && f.hasDataOf(other, *m)
	})
}

// hasDataOf reports whether a member has the data of another one. Without the leader nothing streams, and the log does not grow: then the
// positions of two replicas can be compared.
func (f *Facts) hasDataOf(m, other Member) bool {
	var leader Member
	if l := f.LeaderMember(); l != nil {
		leader = *l
	}
	streams := m.Role == Replica && (chooser{Facts: *f, leader: leader}).isStreaming(m)
	hasReceived := m.Role == Replica && other.Live && other.LSN > 0 && m.LSN >= other.LSN && m.Timeline >= other.Timeline
	switch f.Leader {
	case other.Name:
		return streams
	case m.Name: // the leader of a standby cluster is a replica
		return m.Role.Leads() || streams || hasReceived || f.isUnasked()
	default:
		return hasReceived
	}
}

// isOnlyCopy reports whether a member's data may exist on its node and nowhere else. That there are other pods, or reasons to hold,
// protects nothing.
func (f *Facts) isOnlyCopy(name string) bool {
	m := f.Member(name)
	return m != nil && m.Disk != "" && !f.isCopied(name)
}

// whyOnlyCopy returns why a member's data may exist nowhere else; empty: they do.
func (f *Facts) whyOnlyCopy(name string) string {
	if !f.isOnlyCopy(name) {
		return ""
	}
	disk := f.Member(name).Disk
	switch {
	case len(f.Members) == 1 && f.Others == 0:
		return fmt.Sprintf("%s is the only member of its cluster, and its data may exist on this node only: %s", name, disk)
	case name == f.Leader:
		return fmt.Sprintf("no replica of %s streams, and its data may exist on this node only: %s", name, disk)
	default:
		return fmt.Sprintf("no other member that answers has the data of %s, and they may exist on this node only: %s", name, disk)
	}
}

// holdOnlyCopy holds a member whose data exist nowhere else, also when the drain's time is over. That is recorded: a later run that cannot
// read the cluster must not evict it for that.
func (r *run) holdOnlyCopy(ctx context.Context, holds []string) error {
	if r.record == nil || !r.record.OnlyCopy || !r.request.OnlyCopy {
		if r.record == nil {
			r.record = &mark{Namespace: r.facts.Namespace, Cluster: r.facts.Cluster}
		}
		r.record.OnlyCopy = true // what a move left stays recorded
		if err := r.request.Save(ctx, json.RawMessage(r.record.text()), true); err != nil {
			r.log.Warn("failed to record that a member's data exist on its node only", "error", escort.Printable(err.Error()))
		}
	}
	return &drain.Held{Reason: escort.Printable(strings.Join(holds, "; ")), OnlyCopy: true}
}

// forgetOnlyCopy removes that record when another member has the data, or the volumes are found to follow. A pod that is there protects
// nothing.
func (r *run) forgetOnlyCopy(ctx context.Context) {
	if r.record == nil || !r.record.OnlyCopy || r.facts.Member(r.pod.Name) == nil || r.facts.isOnlyCopy(r.pod.Name) {
		return
	}
	r.record.OnlyCopy = false
	record := json.RawMessage(r.record.text())
	if r.record.Since.IsZero() { // it is of no move
		r.record, record = nil, nil
	}
	if err := r.request.Save(ctx, record, false); err != nil {
		r.log.Warn("failed to remove the record that a member's data exist on its node only", "error", escort.Printable(err.Error()))
	}
}
