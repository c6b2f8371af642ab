package termination

import (
	"context"
	"sync"
	"time"
)

const (
	// publishTimeout bounds what follows the completion, all of it in parallel: the Kubernetes event and the archive. Both usually
	// answer in a tenth of that. A slower answer is not worth the time of a function that is billed by it.
	publishTimeout = 3 * time.Second
	// publishReserve is kept of the invocation's time for what follows: the message, and the answer.
	publishReserve = hideTimeout + completeReserve
)

// Invocation is one invocation's result for one event.
type Invocation struct {
	Report Report
	Began  time.Time // when the lifecycle action did
	First  bool      // no invocation was given the event before; false if the event was rejected
	Ended  bool      // no later invocation continues
	// WasInService reports whether the instance had been in service, with the status node-not-found.
	WasInService     bool
	HeartbeatsFailed int
	HookExpired      bool // the lifecycle action was over before the drain was, although this invocation kept it alive
}

// HandedOff reports whether the invocation ended in good order before the drain did.
func (s Invocation) HandedOff() bool { return s.Report.Status == StatusIncomplete }

// publish counts what the invocation did, archives the report, and records the end of the drain on the node. By now the action is
// completed and the Lease released, so no failure here affects the instance. A skipped event is not published.
func (j *job) publish(ctx context.Context, err error) {
	j.report = j.report.withLists()
	if j.report.Status == StatusSkipped {
		return
	}
	if j.Metrics != nil {
		j.Metrics.Invocation(Invocation{
			Report: j.report, Began: j.Began, First: j.first && j.report.Status != StatusRejected, Ended: err == nil,
			HeartbeatsFailed: int(j.heartbeats.failed.Load()), HookExpired: j.hookExpired, WasInService: j.wasInService,
		})
	}
	ctx, cancel := publishContext(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { j.archive(ctx) })
	j.sending.Wait()
	if err == nil {
		j.announceEnd(ctx)
	}
	group.Wait()
}

// publishContext returns a context for publish, independent of the drain's.
func publishContext(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := publishTimeout
	if deadline, limited := ctx.Deadline(); limited {
		timeout = min(timeout, time.Until(deadline)-publishReserve)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// archive stores the report, if there is an archive.
func (j *job) archive(ctx context.Context) {
	if j.Archive == nil {
		return
	}
	if err := j.Archive.Store(ctx, j.report); err != nil {
		j.log.Warn("failed to archive report", "error", err.Error())
	}
}
