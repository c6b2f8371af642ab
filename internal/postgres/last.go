package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// isLast reports whether the time for anything but the last acts is over.
func (r *run) isLast() bool {
	return !r.request.EvictBy.IsZero() && time.Until(r.request.EvictBy) < lastLead
}

// isOverdue reports whether the member should have been told to stop.
func (r *run) isOverdue() bool {
	return !r.request.EvictBy.IsZero() && !time.Now().Before(r.request.EvictBy)
}

// notOurs returns why the pod is not this drain's any more: another invocation acts on it, or its node is another one. Nil: it is.
func notOurs(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, drain.ErrTakenOver) || errors.Is(cause, drain.ErrNodeReplaced) {
		return cause
	}
	return nil
}

// notPastLastActs returns the error of a move, and lets it hold the primary no longer than until the last acts begin. A pause that failed
// shortly before them does not cost the clients the last one.
func (r *run) notPastLastActs(err error) error {
	held, is := errors.AsType[*drain.Held](err)
	if !is || r.request.EvictBy.IsZero() {
		return err
	}
	held.After = min(held.After, max(0, time.Until(r.request.EvictBy.Add(-lastLead))))
	return err
}

// lastRetry is how soon a member is looked at again that could not be read, when its time runs out: soon enough for some tries before
// lastMove, and late enough for a server that recovers.
const lastRetry = 5 * time.Second

// unread is a hold of a member because something could not be read. Another look may succeed.
type unread struct{ *drain.Held }

func (u unread) Unwrap() error { return u.Held }

// holdUnread returns the error of a member that stays for now, because something could not be read.
func holdUnread(format string, args ...any) error {
	return unread{&drain.Held{Reason: escort.Printable(fmt.Sprintf(format, args...))}}
}

// looksAgain reports whether the time is over for anything but the last acts, and a failed look can still be repeated before a last move.
func (r *run) looksAgain(err error) bool {
	_, is := errors.AsType[unread](err)
	return is && r.isLast() && time.Until(r.request.EvictBy) > lastMove+lastRetry
}

// heldUnlessLast returns the hold, or evicts the member if there is no time to wait.
func (r *run) heldUnlessLast(ctx context.Context, held error) error {
	if r.record != nil && r.record.OnlyCopy {
		reason := held.Error()
		if hold, is := errors.AsType[*drain.Held](held); is {
			reason = hold.Reason
		}
		return &drain.Held{Reason: escort.Printable(reason + "; its data may exist on this node only"), OnlyCopy: true}
	}
	if !r.isLast() || r.looksAgain(held) {
		return held
	}
	return r.evictPlainly(ctx, held.Error())
}

// escortLast gets a primary off its node at the end of the drain's time: to any healthy candidate, though its node leaves too. Otherwise
// the primary is evicted under a pause: Patroni switches over when it is told to stop. Otherwise it is evicted without one. It has its whole
// grace in each case.
func (r *run) escortLast(ctx context.Context) error {
	if time.Until(r.request.EvictBy) > lastMove && r.Strategy == config.StrategySwitchover {
		m := r.newMove()
		m.deadline = r.request.EvictBy.Add(-lastPause)
		m.last, m.decide = true, func(f Facts) Assessment { return AssessLast(f, r.Settings, time.Now()) }
		err := m.run(ctx)
		switch end, limited := ctx.Deadline(); {
		case err == nil:
			return r.evictPlainly(ctx, "")
		case notOurs(ctx) != nil:
			return notOurs(ctx)
		case errors.Is(err, errTooShort) && limited && r.request.EvictBy.After(end.Add(lastPause)):
			return err // the next invocation has the time
		case m.begun && !r.isOverdue(), r.looksAgain(err):
			return err
		}
		escort.AddReason(&r.result, err.Error())
		r.log.Warn("cannot move the primary in time, evicting it", "reason", err.Error())
	}
	if r.canSwitchOver(time.Until(r.request.EvictBy)) { // a move that failed took its time
		if err := r.request.Evict(ctx, drain.EvictOptions{DryRun: true}); err != nil {
			return err // clients are not paused for an eviction that is refused
		}
		m, evicted := r.newMove(), false
		m.last, m.unnamed, m.deadline = true, true, r.request.EvictBy.Add(-lastPause)
		m.way = byEviction{func(ctx context.Context) error {
			err := r.evict(ctx)
			evicted = err == nil
			return err
		}}
		if err := m.run(ctx); err != nil {
			escort.AddReason(&r.result, err.Error())
		}
		if evicted {
			return nil
		}
	}
	return r.evictPlainly(ctx, "")
}

// canSwitchOver reports whether an eviction under a pause can end in a new primary: Patroni switches over on SIGTERM, to another member, but
// not in maintenance mode (https://patroni.readthedocs.io/en/latest/pause.html).
func (r *run) canSwitchOver(left time.Duration) bool {
	return left > lastPause && r.Strategy == config.StrategySwitchover && r.facts.Operator.UsesPatroni() && !r.facts.inMaintenance() && !r.facts.isSingle()
}
