package postgres

import (
	"context"
	"encoding/json"
	"strings"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// isOnlyCopy reports whether the leader's data may exist on its node and nowhere else.
func (f *Facts) isOnlyCopy() bool { return f.isSingle() && f.Disk != "" }

// holdOnlyCopy holds a primary whose data exist nowhere else, also when the drain's time is over. That is recorded: a later run that cannot
// read the cluster must not evict it for that.
func (r *run) holdOnlyCopy(ctx context.Context, a Assessment) error {
	if r.record == nil || !r.record.OnlyCopy {
		r.record = &mark{Namespace: r.facts.Namespace, Cluster: r.facts.Cluster, OnlyCopy: true}
		if err := r.request.Save(ctx, json.RawMessage(r.record.text())); err != nil {
			r.log.Warn("failed to record that a primary's data exist on its node only", "error", escort.Printable(err.Error()))
		}
	}
	return &drain.Held{Reason: escort.Printable(strings.Join(a.Holds, "; ")), OnlyCopy: true}
}

// forgetOnlyCopy removes that record when there is another member.
func (r *run) forgetOnlyCopy(ctx context.Context) {
	if r.record == nil || !r.record.OnlyCopy || len(r.facts.Members) < 2 {
		return
	}
	r.record = nil
	if err := r.request.Save(ctx, nil); err != nil {
		r.log.Warn("failed to record that a primary's data exist on its node only", "error", escort.Printable(err.Error()))
	}
}
