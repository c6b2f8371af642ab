package termination

import (
	"context"
	"errors"
	"maps"
	"time"

	"quiesce/internal/drain"
)

const (
	// escortTime is what an escort takes at most before it asks for the eviction.
	escortTime = 15 * time.Second
	// undoTime bounds giving back.
	undoTime = 3 * time.Second
	// turnPace is how often it is asked whether it is a pooler's turn.
	turnPace = 500 * time.Millisecond
)

// simEscort sees poolers out as the real one does: its turn, a mark, a pause, and the eviction when nothing is in flight.
type simEscort struct{ *simInvocation }

var errTurnTimeout = errors.New("its turn has not come in time")

// Escort implements drain.Escort.
func (e simEscort) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	done := drain.EscortResult{Strategy: "pause"}
	if p.Terminating() {
		return done, nil
	}
	e.s.locked(func() { e.escorting[p.Name] = true })()
	defer e.s.locked(func() { delete(e.escorting, p.Name) })()
	if p.Recorded {
		e.s.locked(func() { e.s.counts["escort after a crashed one"]++ })()
		_ = e.undo(ctx, p)
	}
	err := e.stop(ctx, p)
	if err == nil || isEvictionError(err) || ctx.Err() != nil {
		return done, err
	}
	return done, p.Evict(ctx, drain.EvictOptions{}) // plainly
}

// evictionError is the eviction's answer.
type evictionError struct{ error }

func (r evictionError) Unwrap() error { return r.error }

func isEvictionError(err error) bool { _, is := errors.AsType[evictionError](err); return is }

func (e simEscort) stop(ctx context.Context, p drain.EscortRequest) error {
	until := time.Now().Add(escortTime)
	if !p.EvictBy.IsZero() && p.EvictBy.Before(until) {
		until = p.EvictBy
	}
	leave, err := e.awaitTurn(ctx, p, until)
	if err != nil {
		return err
	}
	defer leave()
	if !time.Now().Before(until) {
		return errTurnTimeout
	}
	if err := p.Evict(ctx, drain.EvictOptions{DryRun: true}); err != nil {
		return evictionError{err}
	}
	err = e.pause(ctx, p, until)
	if err == nil {
		if err = p.Evict(ctx, drain.EvictOptions{}); err != nil {
			err = evictionError{err}
		}
	}
	if err != nil {
		_ = e.undo(ctx, p)
	}
	return err
}

// awaitTurn waits until nobody else stops a pooler of the group.
func (e simEscort) awaitTurn(ctx context.Context, p drain.EscortRequest, until time.Time) (leave func(), err error) {
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
		case pause(ctx, turnPace) != nil:
			return nil, context.Cause(ctx)
		}
	}
}

// pause leaves a mark, lets no more transactions begin, and waits for those in flight.
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
	quiet := time.Now().Add(e.s.quiet(p.Ref))
	if until.Before(quiet) { // what is left is cut
		quiet = until
	}
	return pause(ctx, time.Until(quiet))
}

// saveRecord records the pause in the lease, and labels the pod.
func (e simEscort) saveRecord(ctx context.Context, p drain.EscortRequest) error {
	if err := p.Save(ctx, []byte(`{"paused":true}`)); err != nil {
		return err
	}
	return e.label(ctx, p, "mark", "pause")
}

func (e simEscort) removeRecord(ctx context.Context, p drain.EscortRequest) error {
	if err := e.label(ctx, p, "unmark", ""); err != nil {
		return err
	}
	return p.Save(ctx, nil)
}

func (e simEscort) label(ctx context.Context, p drain.EscortRequest, what, value string) error {
	return e.effect(ctx, api, what, p.Name, func() error {
		pod := e.s.pod(p.Ref)
		if pod == nil {
			return nil
		}
		pod.Labels = maps.Clone(pod.Labels) // others look at it
		if pod.Labels[drain.EscortLabel] = value; value == "" {
			delete(pod.Labels, drain.EscortLabel)
		}
		e.s.changedAll()
		return nil
	})
}

// undo gives back: first of all, transactions may begin again.
func (e simEscort) undo(ctx context.Context, p drain.EscortRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	err := e.effect(ctx, console, "resume", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.s.checkResume(pod)
			pod.paused = nil
		}
		return nil
	})
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

// Farewell implements drain.Escort.
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

// Release implements drain.Escort.
func (e simEscort) Undo(ctx context.Context, p drain.EscortRequest) error {
	e.s.locked(func() { e.s.counts["pod released"]++ })()
	return e.undo(ctx, p)
}

// Advise implements drain.Escort.
func (e simEscort) Advise(context.Context, drain.Pod) []string { return nil }

// groupOf: those under one budget are one group, which one of them leaves at a time.
func (s *simulation) groupOf(p drain.Pod) string {
	if len(p.PDBs) > 0 {
		return p.PDBs[0]
	}
	return "alone " + p.Name
}

// pod is nil if it is gone.
func (s *simulation) pod(ref drain.Ref) *simPod {
	for _, c := range s.instances {
		if p := c.node.pods[ref.Name]; p != nil && !c.dead {
			return p
		}
	}
	return nil
}

func (s *simulation) quiet(ref drain.Ref) (d time.Duration) {
	s.locked(func() {
		if p := s.pod(ref); p != nil {
			d = p.plan.transactions
		}
	})()
	return d
}

// checkPause: the mark comes before the act, and nobody else of the group is stopped meanwhile, unless by one that crashed.
func (i *simInvocation) checkPause(p *simPod) {
	if c := i.s.instanceOfPod(p); c.node.lease == nil || c.node.lease.records[p.UID] == "" {
		i.s.violate("%s: paused %s without a record", i.name, p.Name)
	}
	i.s.counts["pooler paused"]++
	for _, c := range i.s.instances {
		for _, other := range c.node.pods {
			together := other != p && p.pdb != nil && other.pdb == p.pdb
			if together && other.paused != nil && !other.paused.dead && !other.Terminating() {
				i.s.violate("%s: paused %s while %s was", i.name, p.Name, other.Name)
			}
		}
	}
}

// checkResume: a pooler is not paused for longer than faults in a row can keep others from it.
func (s *simulation) checkResume(p *simPod) {
	if p.paused == nil {
		return
	}
	if d := time.Since(p.pausedAt); d > s.maxPause() {
		s.violate("%s was paused for %s", p.Name, d)
	}
}

func (s *simulation) maxPause() time.Duration {
	switch {
	case s.hasFaults() && s.retains: // and then sweeps give back
		return s.maxSilence() + sweepTime
	case s.hasFaults():
		return s.maxSilence()
	}
	return escortTime + undoTime
}

// checkNothingPaused: who ends in order has given back what it took, or could not.
func (i *simInvocation) checkNothingPaused() {
	for _, c := range i.s.instances {
		for _, p := range c.node.pods {
			if p.paused == i && !p.Terminating() && !i.stuck[p.Name] && !c.dead {
				i.s.violate("%s: ended, and left %s paused", i.name, p.Name)
			}
		}
	}
}

// checkShutDown: they are the last that is done to the pods.
func (i *simInvocation) checkShutDown(daemon *simPod) {
	c := i.s.instanceOfPod(daemon)
	i.s.counts["farewell"]++
	if !daemon.plan.daemon {
		i.s.violate("%s: farewell to %s", i.name, daemon.Name)
	}
	for _, p := range c.node.pods {
		if p.isWaitedFor(c) && i.s.hasTime(c) {
			i.s.violate("%s: farewell to %s while %s was there and there was time", i.name, daemon.Name, p.Name)
		}
	}
}

func (s *simulation) instanceOfPod(p *simPod) *simInstance {
	for _, c := range s.instances {
		if c.node.pods[p.Name] == p {
			return c
		}
	}
	return nil
}
