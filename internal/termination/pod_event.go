package termination

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

const (
	// podEventTimeout bounds recording one event, its retries included. A server that is well needs milliseconds. A longer wait would
	// hold back the events behind it.
	podEventTimeout = 5 * time.Second
	// podEventsAtOnce is how many are recorded at the same time. One that hangs does not hold back the rest. More would take room from
	// evictions, for people who read it minutes later.
	podEventsAtOnce = 2
)

// owners tells the owners of pods, by Kubernetes events in their namespaces. Events are recorded beside the drain, for as long as that
// takes. Without the permission the first failure is logged, and nothing else changes.
type owners struct {
	drain   context.Context
	cluster Kubernetes
	log     *slog.Logger
	sending *sync.WaitGroup
	slots   chan struct{}
	failed  sync.Once
}

// newOwners returns whom a drain tells; nil: nobody, because the invocations before it ended uncleanly.
func (j *job) newOwners(ctx context.Context, cluster Kubernetes) drain.Owners {
	if j.drainer.Effort != drain.EffortFull {
		return nil
	}
	return &owners{drain: ctx, cluster: cluster, log: j.log, sending: &j.sending, slots: make(chan struct{}, podEventsAtOnce)}
}

// Tell implements drain.Owners.
func (o *owners) Tell(e drain.PodEvent) {
	o.sending.Go(func() {
		select {
		case o.slots <- struct{}{}:
		case <-o.drain.Done():
			return
		}
		defer func() { <-o.slots }()
		ctx, cancel := context.WithTimeout(o.drain, podEventTimeout)
		defer cancel()
		if err := o.cluster.RecordPodEvent(ctx, e); err != nil && o.drain.Err() == nil {
			o.failed.Do(func() {
				o.log.Warn("failed to create Kubernetes event about a pod", "pod", e.Pod.String(), "error", drain.Short(err.Error()))
			})
		}
	})
}
