package pooler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

const (
	// probeShare is which part of a liveness probe's window a shutdown may take. The first probe to fail may be made at once, so
	// that of a window of n periods only n-1 are sure. With half of it, two are enough; three are the default
	// (https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/).
	probeShare = 2
	// leastShutdown is the time that a shutdown must have within that, for a surge to be of use.
	leastShutdown = 2 * time.Second
	// insistence is how long the eviction of a pooler that has shut down is asked for, and insistInterval how often. The shutdown
	// cannot be undone, and nothing protects the pod any more: what is in the way must be the API server's.
	insistence     = 10 * time.Second
	insistInterval = time.Second
)

// probed is why a shutdown could not be carried through.
func (e *run) probed() (why string) {
	if limit, limited := e.probeLimit(); limited && limit < leastShutdown {
		return fmt.Sprintf("its liveness probe ends a shutdown that takes longer than %v", limit)
	}
	return ""
}

// probeLimit is how long a shutdown may take before a liveness probe has failed so often on the closed port that the kubelet
// sends SIGTERM, which ends the pooler at once. Only a pod that terminates is not probed
// (https://github.com/kubernetes/kubernetes/pull/98571), and a pause leaves the port open.
func (e *run) probeLimit() (limit time.Duration, limited bool) {
	probe := poolerOf(e.pod).Liveness
	if !e.version.WaitsOnShutdown() || probe.Port != consolePort(e.Port, e.pod) {
		return 0, false
	}
	return probe.Window / probeShare, true
}

// stopThenEvict lets no more transactions begin, and evicts the pod when the last has ended.
func (e *run) stopThenEvict(ctx context.Context) error {
	e.allow(ctx)
	if e.version.WaitsOnShutdown() {
		return e.shutDownThenEvict(ctx)
	}
	if err := e.ready(ctx); err != nil {
		return err
	}
	if err := e.shed(ctx); err != nil {
		return err
	}
	return e.pauseAndEvict(ctx)
}

// shutDownThenEvict: the eviction's SIGTERM would be the second signal, and ends what is still in flight.
func (e *run) shutDownThenEvict(ctx context.Context) error {
	until, beyond := e.until, "when it was evicted"
	if limit, limited := e.probeLimit(); limited && limit < time.Until(until) {
		until, beyond = time.Now().Add(limit), "when its liveness probe was about to end it"
	}
	err := e.shutDownBy(ctx, until)
	switch {
	case err == nil:
		e.holdBack()
	case ctx.Err() != nil:
		e.note = nil // what is on the pod stays there: a shutdown cannot be undone, and the next escort goes on
		return context.Cause(ctx)
	case errors.Is(err, errOverran):
		e.cut(beyond)
	default:
		e.because(err.Error())
	}
	return e.insist(ctx)
}

// insist asks for the eviction again if it is refused.
func (e *run) insist(ctx context.Context) error {
	var refused error
	err := poll(ctx, time.Now().Add(insistence), insistInterval, func() (bool, error) {
		refused = e.ask(ctx, drain.EvictOptions{})
		return refused == nil, nil
	})
	if errors.Is(err, errOverran) {
		return refused
	}
	return err
}
