package postgres

import (
	"context"
	"log/slog"

	"quiesce/internal/escort"
)

// withdrawOwn removes the request if the object is as this move has written it. The new holder of the Lease may have withdrawn what was there
// before that, and may have asked for the same since.
func (m *move) withdrawOwn(ctx context.Context, requested *asked) {
	if requested.version == "" || requested.failover.Kind == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	logWithdrawal(m.log, m.cluster.WithdrawSwitchover(ctx, requested.failover, requested.version))
}

// withdrawLate removes a request that was written just after another switchover had moved the primary. Patroni removes one that it
// follows when the new primary has the key. This one would count as a person's for a loop.
func (m *move) withdrawLate(ctx context.Context) {
	if !m.unnamed && m.facts.Operator.UsesPatroni() && !m.isTakenOver(ctx) {
		withdraw(ctx, m.log, m.cluster, m.failover())
	}
}

// withdraw removes a request if it is still there, even if ctx has ended: otherwise the primary could move when it is not expected. Any other
// request stays. Clients may wait meanwhile, so the time for it is short, and a failure changes nothing.
func withdraw(ctx context.Context, log *slog.Logger, cluster Cluster, f escort.Failover) {
	if f.Kind == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	object, err := cluster.Annotated(ctx, f.Kind, f.Namespace, f.Name)
	if err == nil && object != nil && isRequested(object, f) {
		err = cluster.WithdrawSwitchover(ctx, f, object.ResourceVersion)
	}
	logWithdrawal(log, err)
}

func logWithdrawal(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("failed to withdraw the request for a switchover", "error", escort.Printable(err.Error()))
	}
}
