package termination

import (
	"context"
	"errors"
	"maps"
	"time"

	"quiesce/internal/drain"
)

const (
	// escortTime bounds an escort before it asks for the eviction.
	escortTime = 15 * time.Second
	// undoTime bounds undoing.
	undoTime = 3 * time.Second
	// turnPace is how often an escort asks whether it is its pooler's turn.
	turnPace = 500 * time.Millisecond
)

// simEscort drains poolers as the real one does: it waits for its turn, records, pauses, and evicts when no transaction is open.
type simEscort struct{ *simInvocation }

var errTurnTimeout = errors.New("the turn did not come in time")

// Run implements drain.Escort.
func (e simEscort) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	done := drain.EscortResult{Strategy: "pause"}
	if p.Terminating() {
		return done, nil
	}
	e.s.locked(func() { e.escorting[p.Name] = true })()
	defer e.s.locked(func() { delete(e.escorting, p.Name) })()
	if p.Recorded {
		e.s.locked(func() { e.s.counts["escort after a crashed one"]++ })()
		_ = e.resume(ctx, p) // the record stays: the same is recorded again
	}
	changed, endTurn, err := e.stop(ctx, p)
	defer endTurn() // what is undone is undone before another's turn
	if err != nil && !isEvictionError(err) && ctx.Err() == nil {
		if changed {
			_ = e.resume(ctx, p)
		}
		err = p.Evict(ctx, drain.EvictOptions{}) // without draining
	}
	switch {
	case errors.Is(context.Cause(ctx), drain.ErrTakenOver): // another invocation acts on the pod
	case err == nil || !changed && !p.Recorded:
	case errors.Is(context.Cause(ctx), drain.ErrEscortLate): // the rest ends with the pod
		if changed && e.resume(ctx, p) != nil {
			e.s.locked(func() { e.stuck[p.Name] = true })()
		}
	default:
		_ = e.undo(ctx, p)
	}
	return done, err
}

// evictionError is the error of the eviction itself.
type evictionError struct{ error }

func (r evictionError) Unwrap() error { return r.error }

func isEvictionError(err error) bool { _, is := errors.AsType[evictionError](err); return is }

// stop pauses the pooler and evicts it, in its turn. It reports whether it may have changed anything.
func (e simEscort) stop(ctx context.Context, p drain.EscortRequest) (changed bool, endTurn func(), err error) {
	until := time.Now().Add(escortTime)
	if !p.EvictBy.IsZero() && p.EvictBy.Before(until) {
		until = p.EvictBy
	}
	endTurn, err = e.awaitTurn(ctx, p, until)
	if err != nil {
		return false, func() {}, err
	}
	if !time.Now().Before(until) {
		return false, endTurn, errTurnTimeout
	}
	if err := p.Evict(ctx, drain.EvictOptions{DryRun: true}); err != nil {
		return false, endTurn, evictionError{err}
	}
	if err := e.pause(ctx, p, until); err != nil {
		return true, endTurn, err
	}
	if err := p.Evict(ctx, drain.EvictOptions{}); err != nil {
		return true, endTurn, evictionError{err}
	}
	return true, endTurn, nil
}

// awaitTurn waits until no other invocation stops a pooler of the group.
func (e simEscort) awaitTurn(ctx context.Context, p drain.EscortRequest, until time.Time) (endTurn func(), err error) {
	for group := e.s.groupOf(p.Pod); ; {
		mine := false
		err := e.ask(ctx, api, func() error {
			holder := e.s.groupHolders[group]
			if mine = holder == nil || holder.dead && time.Since(holder.diedAt) > leaseTime; mine {
				e.s.groupHolders[group] = e.simInvocation
			}
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case mine:
			return e.s.locked(func() {
				if !e.dead {
					e.s.groupHolders[group] = nil
				}
			}), nil
		case !time.Now().Before(until):
			return nil, errTurnTimeout
		case drain.Sleep(ctx, turnPace) != nil:
			return nil, context.Cause(ctx)
		}
	}
}

// pause saves a record, lets no transaction begin, and waits for open ones.
func (e simEscort) pause(ctx context.Context, p drain.EscortRequest, until time.Time) error {
	if err := e.saveRecord(ctx, p); err != nil {
		return err
	}
	err := e.effect(ctx, console, "pause", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.checkPause(pod)
			pod.paused, pod.pausedAt = e.simInvocation, time.Now()
		}
		return nil
	})
	if err != nil {
		return err
	}
	quiet := time.Now().Add(e.s.transactionTime(p.Ref))
	if until.Before(quiet) { // the rest is aborted
		quiet = until
	}
	return drain.Sleep(ctx, time.Until(quiet))
}

// saveRecord records the pause in the Lease, and labels the pod.
func (e simEscort) saveRecord(ctx context.Context, p drain.EscortRequest) error {
	if err := p.Save(ctx, []byte(`{"paused":true}`), false); err != nil {
		return err
	}
	if p.Labels[drain.EscortLabel] == "pause" {
		return nil // an escort that crashed left the label
	}
	return e.label(ctx, p, "mark", "pause")
}

func (e simEscort) removeRecord(ctx context.Context, p drain.EscortRequest) error {
	if err := e.label(ctx, p, "unmark", ""); err != nil {
		return err
	}
	return p.Save(ctx, nil, false)
}

func (e simEscort) label(ctx context.Context, p drain.EscortRequest, what, value string) error {
	return e.effect(ctx, api, what, p.Name, func() error {
		pod := e.s.pod(p.Ref)
		if pod == nil {
			return nil
		}
		pod.Labels = maps.Clone(pod.Labels) // other goroutines read it
		if pod.Labels[drain.EscortLabel] = value; value == "" {
			delete(pod.Labels, drain.EscortLabel)
		}
		e.s.changedAll()
		return nil
	})
}

// undo resumes the pooler first, and then removes label and record.
func (e simEscort) undo(ctx context.Context, p drain.EscortRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	err := e.resume(ctx, p)
	if err == nil {
		err = e.removeRecord(ctx, p)
	}
	e.s.locked(func() {
		if e.s.counts["escort undone"]++; err != nil {
			e.stuck[p.Name] = true
		}
	})()
	return err
}

func (e simEscort) resume(ctx context.Context, p drain.EscortRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	return e.effect(ctx, console, "resume", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.s.checkResume(pod)
			pod.paused = nil
		}
		return nil
	})
}

// ShutDown implements drain.Escort.
func (e simEscort) ShutDown(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	err := e.effect(ctx, console, "shutdown", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.checkShutDown(pod)
			pod.shutDown = true
		}
		return nil
	})
	return drain.EscortResult{Strategy: "shutdown"}, err
}

// Undo implements drain.Escort.
func (e simEscort) Undo(ctx context.Context, p drain.EscortRequest) error {
	e.s.locked(func() { e.s.counts["escort undone for a pod that stays"]++ })()
	return e.undo(ctx, p)
}

// Advise implements drain.Escort.
func (e simEscort) Advise(context.Context, drain.Pod) []string { return nil }

// groupOf returns the pod's group. Poolers under one PDB are one group, which one of them leaves at a time.
func (s *simulation) groupOf(p drain.Pod) string {
	if len(p.PDBs) > 0 {
		return p.PDBs[0]
	}
	return "alone " + p.Name
}

// pod returns the pod; nil: it is gone.
func (s *simulation) pod(ref drain.Ref) *simPod {
	for _, inst := range s.instances {
		if p := inst.node.pods[ref.Name]; p != nil && !inst.dead {
			return p
		}
	}
	return nil
}

func (s *simulation) transactionTime(ref drain.Ref) (d time.Duration) {
	s.locked(func() {
		if p := s.pod(ref); p != nil {
			d = p.plan.transactions
		}
	})()
	return d
}

// checkPause checks that a record precedes the pause, and that no other pooler of the group is paused by a live invocation.
func (i *simInvocation) checkPause(p *simPod) {
	if inst := i.s.instanceOfPod(p); inst.node.lease == nil || inst.node.lease.records[drain.EscortRecord+p.UID] == "" {
		i.s.violate("%s: paused %s without a record", i.name, p.Name)
	}
	i.s.counts["pause of a pooler"]++
	for _, inst := range i.s.instances {
		for _, other := range inst.node.pods {
			together := other != p && p.pdb != nil && other.pdb == p.pdb
			if together && other.paused != nil && !other.paused.dead && !other.Terminating() {
				i.s.violate("%s: paused %s while %s was", i.name, p.Name, other.Name)
			}
		}
	}
}

// checkResume checks that no pooler is paused for longer than failures in a row can prevent its resume. One that was evicted stays paused
// until it is gone.
func (s *simulation) checkResume(p *simPod) {
	if p.paused == nil || p.Terminating() {
		return
	}
	if d := time.Since(p.pausedAt); d > s.maxPause() {
		s.violate("%s was paused for %s", p.Name, d)
	}
}

func (s *simulation) maxPause() time.Duration {
	switch {
	case s.hasFailures() && s.retains: // then sweeps undo it
		return s.maxSilence() + sweepTime
	case s.hasFailures():
		return s.maxSilence()
	}
	return escortTime + undoTime
}

// checkNothingPaused checks that an invocation that ends in order has undone its pauses, or could not.
func (i *simInvocation) checkNothingPaused() {
	for _, inst := range i.s.instances {
		for _, p := range inst.node.pods {
			if p.paused == i && !p.Terminating() && !i.stuck[p.Name] && !inst.dead {
				i.s.violate("%s: ended while its pod %s is paused", i.name, p.Name)
			}
		}
	}
}

// checkShutDown checks that shutting down DaemonSet pods is the last step.
func (i *simInvocation) checkShutDown(daemon *simPod) {
	inst := i.s.instanceOfPod(daemon)
	i.s.counts["DaemonSet pod shut down"]++
	if !daemon.plan.daemon {
		i.s.violate("%s: shut down %s", i.name, daemon.Name)
	}
	for _, p := range inst.node.pods {
		if inst.isWaiting() && p.isWaitedFor(inst, reconnectLag) && i.s.hasTime(inst) { // an action that is over has no time
			i.s.violate("%s: shut down %s while %s was there and there was time", i.name, daemon.Name, p.Name)
		}
	}
}

func (s *simulation) instanceOfPod(p *simPod) *simInstance {
	for _, inst := range s.instances {
		if inst.node.pods[p.Name] == p {
			return inst
		}
	}
	return nil
}
