package pooler

import (
	"context"
	"errors"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// ShutDown implements drain.Escort for a DaemonSet's pgbouncer, which is not evicted. It shuts pgbouncer down when no transaction is
// open any more, or at the timeout. The kubelet restarts the container; what connects to that then is lost with the node.
func (e *Escort) ShutDown(ctx context.Context, request drain.EscortRequest) (drain.EscortResult, error) {
	r := e.begin(request)
	defer r.close()
	exists, err := r.findPod(ctx, request.Ref)
	if err != nil || !exists || r.terminating() {
		return r.result, err
	}
	r.recoverInterrupted(ctx)()
	r.result.Strategy = string(shutdown)
	err = r.shutDownInPlace(ctx)
	return r.result, err
}

func (r *run) shutDownInPlace(ctx context.Context) error {
	if err := r.openConsole(ctx); err != nil {
		return err
	}
	r.setDeadline(ctx, 0)
	err := r.method().stopTransactions(ctx)
	if errors.Is(err, escort.ErrTimeout) && ctx.Err() == nil {
		r.reportAborted("at the escort's timeout")
		err = nil
	}
	if err != nil {
		return errors.Join(err, r.rollBack(ctx))
	}
	// What is left is aborted now, so that its clients notice: from a node that is gone they would hear nothing.
	if err := r.shutDownNow(ctx); err != nil {
		return err
	}
	r.reportHeldBack()
	r.log.Info("pgbouncer shutdown complete")
	if r.record == nil {
		return nil
	}
	return r.clearRecord(ctx)
}

func (r *run) shutDownNow(ctx context.Context) error {
	if !r.console.Usable() { // pgbouncer has exited, or no command reaches it
		return nil
	}
	return r.console.Shutdown(withoutCancel(ctx), pgbouncer.Immediate)
}
