package termination

import (
	"context"
	"sync"
	"time"
)

const (
	// publishTimeout bounds what is told at the end of a slice, all of it at once: to the cluster and to the archive. Either answers
	// in a tenth of that; who does not is not worth the time of a function that is paid by it.
	publishTimeout = 3 * time.Second
	// publishReserve is kept of the invocation's time for what comes after: the message, and the answer.
	publishReserve = hideTimeout + completeReserve
)

// Invocation is what one invocation did about one event, as those want to know who watch.
type Invocation struct {
	Report           Report
	Began            time.Time // when the lifecycle action did
	First            bool      // no invocation was given the event before
	Ended            bool      // no invocation goes on with it
	HeartbeatsFailed int
	HookExpired      bool // the lifecycle action was over before the drain was, though this slice kept it alive
}

// HandedOff tells whether the slice ended in good order before the drain did.
func (s Invocation) HandedOff() bool { return s.Report.Status == StatusIncomplete }

// publish tells those who watch what the slice did, and with what error it ended. By now the action is completed and the Lease given
// back: nobody waits for this, and nothing that goes wrong here matters to the instance. Of an event that was skipped there is
// nothing to tell.
func (w *job) publish(ctx context.Context, err error) {
	w.report = w.report.withLists()
	if w.report.Status == StatusSkipped {
		return
	}
	if w.Metrics != nil {
		w.Metrics.Invocation(Invocation{
			Report: w.report, Began: w.Began, First: w.first, Ended: err == nil,
			HeartbeatsFailed: int(w.heartbeats.failed.Load()), HookExpired: w.hookExpired,
		})
	}
	ctx, cancel := w.publishContext(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { w.archive(ctx) })
	w.recording.Wait()
	if err == nil {
		w.recordEnd(ctx)
	}
	group.Wait()
}

// publishContext is a context for that, whatever became of the drain's.
func (w *job) publishContext(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := publishTimeout
	if deadline, limited := ctx.Deadline(); limited {
		timeout = min(timeout, time.Until(deadline)-publishReserve)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// archive puts the report into the archive, if there is one.
func (w *job) archive(ctx context.Context) {
	if w.Archive == nil {
		return
	}
	if err := w.Archive.Store(ctx, w.report); err != nil {
		w.log.Warn("the report was not kept", "error", err.Error())
	}
}
