package pooler

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// lookAgainTime is for the look at the pod after its turn has come, or has not. An API server that is replaced takes longer, and must not keep
// pgbouncer from its shutdown, which may need nothing of it.
const lookAgainTime = time.Second

var errServerSilent = errors.New("the API server did not answer in time")

// ShutDown implements drain.Escort for a DaemonSet's pgbouncer, which is not evicted. It shuts pgbouncer down when no transaction is
// open any more, or at the timeout. It takes its turn, as Run does: a move of a primary may hold its clients. The kubelet restarts the
// container; what connects to that then is lost with the node.
func (e *Escort) ShutDown(ctx context.Context, request drain.EscortRequest) (drain.EscortResult, error) {
	r := e.begin(request)
	defer r.close()
	exists, err := r.findPod(ctx, request.Ref)
	if err != nil || !exists || r.terminating() {
		return r.result, err
	}
	r.PhaseTimeout = r.Timeout // for its turn: it is the last step of a drain
	deadline := r.turnDeadline(ctx)
	waiting, cancel := context.WithDeadlineCause(ctx, deadline.Add(lookAgainTime), errServerSilent)
	defer cancel()
	recovered := r.recoverInterrupted(waiting)
	release, withoutTurn := r.awaitTurn(waiting, deadline)
	if withoutTurn == nil {
		defer release()
	}
	recovered()
	exists, unseen := r.findPod(waiting, request.Ref)
	switch {
	case ctx.Err() != nil:
		return r.result, context.Cause(ctx)
	case unseen == nil && (!exists || r.terminating()):
		return r.result, nil
	}
	r.addFailures(withoutTurn, unseen)
	r.last = true
	r.result.Strategy = string(shutdown)
	err = r.shutDownInPlace(ctx)
	return r.result, err
}

func (r *run) shutDownInPlace(ctx context.Context) error {
	if err := r.openConsole(ctx); err != nil {
		return err
	}
	r.setDeadline(ctx, 0)
	err := r.stopInPlace(ctx)
	if errors.Is(err, escort.ErrTimeout) && ctx.Err() == nil {
		r.reportAborted("at the escort's timeout")
		err = nil
	}
	if err != nil {
		lost := r.lostConsole()
		if failure := r.rollBack(ctx); failure != nil || !lost || r.tried || ctx.Err() != nil {
			return errors.Join(err, failure)
		}
		r.startOver(err)
		r.Timeout = max(time.Second, time.Until(r.deadline))
		return r.shutDownInPlace(ctx)
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

// stopInPlace lets no more transactions begin, and waits for the open ones. The kubelet probes this pod, which is not terminating. A shutdown
// closes the port, and a probe that connects to it ends pgbouncer too early. A pause leaves the port open. Where pgbouncer cannot be paused, it
// shuts down as long as the probe lets it, and before 1.23 at once.
func (r *run) stopInPlace(ctx context.Context) error {
	limit, limited := r.method().livenessLimit()
	if r.version.WaitsOnShutdown() && (!limited || limit >= time.Until(r.deadline)) {
		return byShutdown{r}.stopTransactions(ctx)
	}
	err := byPause{r}.stopTransactions(ctx)
	if err == nil || ctx.Err() != nil || r.stop.pause != nil || r.lostConsole() {
		return err
	}
	r.addReason("not paused: " + err.Error())
	if err := r.rollBack(ctx); err != nil {
		r.addReason(err.Error())
	}
	if !r.version.WaitsOnShutdown() {
		_ = r.recycleServers(ctx) // the count is of before the attempts; without an answer it is the best there is
		if r.load.inFlight > 0 {
			r.reportAborted("when it was shut down")
		}
		return nil
	}
	return byShutdown{r}.shutDownUntil(ctx, escort.Earlier(r.deadline, time.Now().Add(limit)))
}

func (r *run) shutDownNow(ctx context.Context) error {
	if !r.console.Usable() { // pgbouncer has exited, or no command reaches it
		return nil
	}
	err := r.console.Shutdown(withoutCancel(ctx), pgbouncer.Immediate)
	if r.console.HasEnded() { // it has exited, perhaps just before
		return nil
	}
	return err
}
