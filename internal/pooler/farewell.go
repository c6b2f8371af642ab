package pooler

import (
	"context"
	"errors"

	"quiesce/internal/drain"
	"quiesce/internal/pgbouncer"
)

// ShutDown implements drain.Escort, for a pooler that a DaemonSet runs: it ends when no transaction is in flight any more, or
// its time is over. Its container is started again, and what connects to that then is nobody's any more.
func (e *Escort) ShutDown(ctx context.Context, r drain.EscortRequest) (drain.EscortResult, error) {
	s := e.begin(r)
	defer s.close()
	here, err := s.look(ctx, r.Ref)
	if err != nil || !here || s.terminating() {
		return s.result, err
	}
	s.recover(ctx)
	s.result.Strategy = string(shutdown)
	err = s.farewell(ctx)
	return s.result, err
}

func (e *run) farewell(ctx context.Context) error {
	if err := e.open(ctx); err != nil {
		return err
	}
	e.allow(ctx)
	err := e.quiet(ctx)
	if errors.Is(err, errOverran) && ctx.Err() == nil {
		e.cut("at the end")
		err = nil
	}
	if err != nil {
		return errors.Join(err, e.undo(ctx))
	}
	// Whatever is left is cut now, so that its clients hear of it: from a node that is gone, nobody hears anything.
	if err := e.end(ctx); err != nil {
		return err
	}
	e.holdBack()
	e.log.Info("pooler shut down")
	if e.note == nil {
		return nil
	}
	return e.unmark(ctx)
}

// quiet lets no more transactions begin and waits for those in flight. Only a pause has to be undone if that is given up.
func (e *run) quiet(ctx context.Context) error {
	if e.version.WaitsOnShutdown() {
		return e.shutDownBy(ctx, e.until)
	}
	if err := e.ready(ctx); err != nil {
		return err
	}
	return e.pauseBy(ctx, e.until)
}

func (e *run) end(ctx context.Context) error {
	if e.console.HasEnded() {
		return nil
	}
	return e.console.Shutdown(steady(ctx), pgbouncer.Immediate)
}
