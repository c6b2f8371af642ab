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

// escort sees poolers out as the real one does: its turn, a mark, a pause, and the eviction when nothing is in flight.
type escort struct{ *incarnation }

var errTurn = errors.New("its turn has not come in time")

// Escort implements drain.Escort.
func (e escort) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	done := drain.EscortResult{Strategy: "pause"}
	if p.Terminating() {
		return done, nil
	}
	e.s.locked(func() { e.seeing[p.Name] = true })()
	defer e.s.locked(func() { delete(e.seeing, p.Name) })()
	if p.Recorded {
		e.s.locked(func() { e.s.counts["escort after a crashed one"]++ })()
		_ = e.undo(ctx, p)
	}
	err := e.stop(ctx, p)
	if err == nil || isRefusal(err) || ctx.Err() != nil {
		return done, err
	}
	return done, p.Evict(ctx, drain.EvictOptions{}) // plainly
}

// refusal is the eviction's answer.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func isRefusal(err error) bool { _, is := errors.AsType[refusal](err); return is }

func (e escort) stop(ctx context.Context, p drain.EscortRequest) error {
	until := time.Now().Add(escortTime)
	if !p.EvictBy.IsZero() && p.EvictBy.Before(until) {
		until = p.EvictBy
	}
	leave, err := e.turn(ctx, p, until)
	if err != nil {
		return err
	}
	defer leave()
	if !time.Now().Before(until) {
		return errTurn
	}
	if err := p.Evict(ctx, drain.EvictOptions{DryRun: true}); err != nil {
		return refusal{err}
	}
	err = e.pause(ctx, p, until)
	if err == nil {
		if err = p.Evict(ctx, drain.EvictOptions{}); err != nil {
			err = refusal{err}
		}
	}
	if err != nil {
		_ = e.undo(ctx, p)
	}
	return err
}

// turn waits until nobody else stops a pooler of the group.
func (e escort) turn(ctx context.Context, p drain.EscortRequest, until time.Time) (leave func(), err error) {
	for group := e.s.groupOf(p.Pod); ; {
		mine := false
		err := e.ask(ctx, api, func() error {
			holder := e.s.turns[group]
			if mine = holder == nil || holder.dead && time.Since(holder.died) > leaseTime; mine {
				e.s.turns[group] = e.incarnation
			}
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case mine:
			return e.s.locked(func() {
				if !e.dead {
					e.s.turns[group] = nil
				}
			}), nil
		case !time.Now().Before(until):
			return nil, errTurn
		case pause(ctx, turnPace) != nil:
			return nil, context.Cause(ctx)
		}
	}
}

// pause leaves a mark, lets no more transactions begin, and waits for those in flight.
func (e escort) pause(ctx context.Context, p drain.EscortRequest, until time.Time) error {
	if err := e.mark(ctx, p); err != nil {
		return err
	}
	err := e.effect(ctx, console, "pause", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.pauses(pod)
			pod.paused, pod.pausedAt = e.incarnation, time.Now()
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

// mark records the pause in the lease, and labels the pod.
func (e escort) mark(ctx context.Context, p drain.EscortRequest) error {
	if err := p.Save(ctx, []byte(`{"paused":true}`)); err != nil {
		return err
	}
	return e.label(ctx, p, "mark", "pause")
}

func (e escort) unmark(ctx context.Context, p drain.EscortRequest) error {
	if err := e.label(ctx, p, "unmark", ""); err != nil {
		return err
	}
	return p.Save(ctx, nil)
}

func (e escort) label(ctx context.Context, p drain.EscortRequest, what, value string) error {
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
func (e escort) undo(ctx context.Context, p drain.EscortRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	err := e.effect(ctx, console, "resume", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.s.resumes(pod)
			pod.paused = nil
		}
		return nil
	})
	if err == nil {
		err = e.unmark(ctx, p)
	}
	e.s.locked(func() {
		if e.s.counts["escort undone"]++; err != nil {
			e.stuck[p.Name] = true
		}
	})()
	return err
}

// Farewell implements drain.Escort.
func (e escort) ShutDown(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	err := e.effect(ctx, console, "farewell", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.farewells(pod)
			pod.farewell = true
		}
		return nil
	})
	return drain.EscortResult{Strategy: "shutdown"}, err
}

// Release implements drain.Escort.
func (e escort) Undo(ctx context.Context, p drain.EscortRequest) error {
	e.s.locked(func() { e.s.counts["pod released"]++ })()
	return e.undo(ctx, p)
}

// Advise implements drain.Escort.
func (e escort) Advise(context.Context, drain.Pod) []string { return nil }

// groupOf: those under one budget are one group, which one of them leaves at a time.
func (s *simulation) groupOf(p drain.Pod) string {
	if len(p.PDBs) > 0 {
		return p.PDBs[0]
	}
	return "alone " + p.Name
}

// pod is nil if it is gone.
func (s *simulation) pod(ref drain.Ref) *pod {
	for _, c := range s.computers {
		if p := c.node.pods[ref.Name]; p != nil && !c.dead {
			return p
		}
	}
	return nil
}

func (s *simulation) quiet(ref drain.Ref) (d time.Duration) {
	s.locked(func() {
		if p := s.pod(ref); p != nil {
			d = p.plan.quiet
		}
	})()
	return d
}

// pauses: the mark comes before the act, and nobody else of the group is stopped meanwhile, unless by one that crashed.
func (i *incarnation) pauses(p *pod) {
	if c := i.s.computerOf(p); c.node.lease == nil || c.node.lease.records[p.UID] == "" {
		i.s.broken("%s: paused %s without a record", i.name, p.Name)
	}
	i.s.counts["pooler paused"]++
	for _, c := range i.s.computers {
		for _, other := range c.node.pods {
			together := other != p && p.budget != nil && other.budget == p.budget
			if together && other.paused != nil && !other.paused.dead && !other.Terminating() {
				i.s.broken("%s: paused %s while %s was", i.name, p.Name, other.Name)
			}
		}
	}
}

// resumes: a pooler is not paused for longer than faults in a row can keep others from it.
func (s *simulation) resumes(p *pod) {
	if p.paused == nil {
		return
	}
	if d := time.Since(p.pausedAt); d > s.pausedMost() {
		s.broken("%s was paused for %s", p.Name, d)
	}
}

func (s *simulation) pausedMost() time.Duration {
	switch {
	case s.hasFaults() && s.retains: // and then sweeps give back
		return s.patience() + calm
	case s.hasFaults():
		return s.patience()
	}
	return escortTime + undoTime
}

// leavesNothingPaused: who ends in order has given back what it took, or could not.
func (i *incarnation) leavesNothingPaused() {
	for _, c := range i.s.computers {
		for _, p := range c.node.pods {
			if p.paused == i && !p.Terminating() && !i.stuck[p.Name] && !c.dead {
				i.s.broken("%s: ended, and left %s paused", i.name, p.Name)
			}
		}
	}
}

// farewells: they are the last that is done to the pods.
func (i *incarnation) farewells(daemon *pod) {
	c := i.s.computerOf(daemon)
	i.s.counts["farewell"]++
	if !daemon.plan.daemon {
		i.s.broken("%s: farewell to %s", i.name, daemon.Name)
	}
	for _, p := range c.node.pods {
		if p.isWaitedFor(c) && i.s.hasTime(c) {
			i.s.broken("%s: farewell to %s while %s was there and there was time", i.name, daemon.Name, p.Name)
		}
	}
}

func (s *simulation) computerOf(p *pod) *computer {
	for _, c := range s.computers {
		if c.node.pods[p.Name] == p {
			return c
		}
	}
	return nil
}
