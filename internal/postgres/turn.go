package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/escort"
)

const (
	// leaseWait is how long a move waits for the Leases of poolers and cluster: a little longer than a crashed holder's Lease lasts.
	leaseWait = 35 * time.Second
	// leaseInterval is between two requests for a Lease.
	leaseInterval = time.Second
	// reclaimTime is how long a move that has lost its Lease waits for it again. Who has taken it resumes what the mark names, which takes a
	// second or two. If it moves the primary itself, it takes longer, and has found no pooler that was paused.
	reclaimTime = 20 * time.Second
	// saveTimeout bounds the reading, the saving and the removal of a mark or a record. Clients wait meanwhile.
	saveTimeout = 5 * time.Second
	// glanceTime bounds the look for the mark of another move while the Lease is not known to be taken. The API server may be out of
	// reach, and clients wait.
	glanceTime = 2 * time.Second
)

// acquire takes the Leases of the poolers' groups in the order of their names, then the cluster's. What an earlier move left paused is
// resumed first.
func (m *move) acquire(ctx context.Context) (release func(), err error) {
	giveBack := func() {
		for _, t := range slices.Backward(m.turns) {
			m.release(t.Release)
		}
	}
	deadline := time.Now().Add(leaseWait)
	if !m.deadline.IsZero() {
		deadline = escort.Earlier(deadline, m.deadline)
	}
	kept := false
	defer func() {
		if !kept { // also after a panic: a Lease is renewed until it is released
			giveBack()
		}
	}()
	for _, name := range m.groups() {
		if _, err := m.take(ctx, deadline, name, "poolers are being stopped by another drain"); err != nil {
			return nil, err
		}
	}
	m.lease, err = m.take(ctx, deadline, clusterLease(m.facts.Identity), "another move of its cluster is under way")
	if err == nil {
		err = m.undoMark(ctx)
	}
	kept = err == nil
	return giveBack, err
}

// turn is a Lease that the move holds.
type turn struct {
	name string
	escort.MarkedLease
}

// take waits for a Lease. The reason says why it may not be free.
func (m *move) take(ctx context.Context, deadline time.Time, name, reason string) (held escort.MarkedLease, err error) {
	err = m.await(ctx, deadline, reason, func() (bool, error) {
		held, err = m.cluster.AcquireMarkedLease(ctx, name)
		return held != nil, err
	})
	if err != nil {
		return nil, err
	}
	m.turns = append(m.turns, turn{name, held})
	return held, nil
}

// lost returns drain.Held if the move must not ask for anything any more, because a Lease is not its own; nil: all are.
func (m *move) lost() error {
	for _, t := range m.turns {
		if err := t.Lost(); err != nil {
			return hold("Lease %s was lost in the middle of the move: %v", t.name, err)
		}
	}
	return nil
}

// isTakenOver reports whether what is paused is left to another holder of the cluster's Lease. It has the mark, or has set its own: whoever
// takes the Lease resumes first what its mark names. Without a mark, or with one that is not held, this move resumes: a person may have
// deleted the Lease, and then no other invocation knows of the pause. A process that stood still does not know yet that another has
// taken the Lease: then the mark of another move says so.
func (m *move) isTakenOver(ctx context.Context) bool {
	lost := m.lease.Lost()
	if m.takenOver || lost == nil {
		return m.takenOver
	}
	taken, limit := errors.Is(lost, escort.ErrTaken), saveTimeout
	if !taken {
		limit = glanceTime
	}
	marks, err := readMarks(ctx, m.cluster, clusterLease(m.facts.Identity), limit)
	m.takenOver = taken && err != nil || slices.ContainsFunc(marks, func(found escort.Mark) bool {
		return found.Held && (taken || markOfMove(m.mark, []escort.Mark{found}) == nil)
	})
	return m.takenOver
}

// again returns what reports whether poolers have been left to another holder since now. It is asked before each command, and looks again
// after staleAfter: this process may have stood still since the last look.
func again(takenOver func(context.Context) bool) func(context.Context) bool {
	// Poolers are resumed in parallel, and one look is enough for all. It is no mutex, because the clock of testing/synctest stands still
	// while a goroutine waits for one.
	looking := make(chan struct{}, 1)
	looked, over := time.Now(), false
	return func(ctx context.Context) bool {
		looking <- struct{}{}
		defer func() { <-looking }()
		if !over && time.Since(looked) > staleAfter {
			over = takenOver(ctx)
			looked = time.Now()
		}
		return over
	}
}

// endTakenOver ends a move whose Lease another invocation holds. Neither the mark nor the request nor a pooler is its own any more, until the
// Lease is free again.
func (m *move) endTakenOver(ctx context.Context) error {
	what := "its poolers are left to the new holder of the Lease"
	if m.moved != "" {
		what = "moved to " + m.moved + "; " + what
	}
	ended := m.lost()
	m.log.Warn("lost the Lease of a move, its poolers are left to the new holder", "reason", escort.Printable(fmt.Sprint(ended)))
	m.result.HeldBackAt, m.result.HeldBackSeconds = m.pausedAt, time.Since(m.pausedAt).Seconds()
	m.report(what)
	m.reclaim(ctx)
	m.mark.Poolers, m.mark.Moved = nil, m.moved != "" || m.begun
	m.saveRecord(ctx, m.mark.Moved)
	return m.ended(ctx, ended, nil)
}

// reclaim takes the Lease once more, and resumes what this move has paused. A PAUSE that was on its way may have come after the new holder's
// RESUME, and no mark names its pooler any more.
func (m *move) reclaim(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reclaimTime)
	defer cancel()
	var lease escort.MarkedLease
	err := escort.Poll(ctx, time.Now().Add(reclaimTime), leaseInterval, func() (_ bool, err error) {
		lease, err = m.cluster.AcquireMarkedLease(ctx, clusterLease(m.facts.Identity))
		return err == nil && lease != nil, nil
	})
	if err != nil {
		m.log.Warn("the Lease of a move stays with its new holder", "error", escort.Printable(err.Error()))
		return
	}
	defer m.release(lease.Release)
	found, err := readMark(lease.Mark())
	another := err == nil && !found.sameMove(&m.mark)
	if another && !found.Resumed {
		return // its holder died: what is paused is on its mark, and the sweep resumes it
	}
	stillPaused := resumer{m.cluster, m.Consoles, m.log, nil}.all(ctx, m.mark.Poolers, m.consoles())
	if another {
		return // it has these poolers too
	}
	stillPaused = append(stillPaused, m.unresumed()...)
	mine := m.mark
	mine.join()
	saving, done := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer done()
	if err := lease.SetMark(saving, mine.rest(stillPaused)); err != nil {
		m.log.Warn("failed to change the mark of a move", "error", escort.Printable(err.Error()))
	}
}

// saveRecord replaces the drain's record by the mark, or removes it. It does so even if ctx has ended.
func (m *move) saveRecord(ctx context.Context, keep bool) {
	if m.save == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	record := json.RawMessage(nil)
	if keep {
		record = json.RawMessage(m.mark.text())
	}
	if err := m.save(ctx, record); err != nil {
		m.log.Warn("failed to save what is left of a move in the drain's record", "error", escort.Printable(err.Error()))
	}
}

// undoMark resumes what the mark of an interrupted move names. The primary is held if that fails. At the end of the drain's time it moves all the
// same: an eviction without a pause would fail the clients of all poolers, not only of those that are not reached. They stay on the mark.
func (m *move) undoMark(ctx context.Context) error {
	if m.lease.Mark() == "" {
		return nil
	}
	m.log.Warn("found the mark of an interrupted move, resuming its poolers first")
	found, err := m.clearMark(ctx, m.cluster, m.lease)
	switch {
	case err == nil:
	case !m.last || found.mark == nil:
		return hold("an interrupted move cannot be undone: %v", err)
	default:
		m.log.Warn("time is over, moving the primary though an interrupted move is not undone", "error", escort.Printable(err.Error()))
		m.unreached = found.stillPaused
	}
	if m.lease.Mark() != "" {
		m.interrupted = found.mark
	}
	return nil
}

// groups returns the names of the Leases of the poolers that may be paused. One that is stopping is not.
func (m *move) groups() (names []string) {
	for _, p := range m.paths.fronts {
		if p.pod.Deleted.IsZero() {
			names = append(names, escort.PoolerLease(p.pod))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// await polls for a Lease. Requests may fail as long as there is time.
func (m *move) await(ctx context.Context, deadline time.Time, reason string, acquire func() (bool, error)) error {
	var failure error
	err := escort.Poll(ctx, deadline, leaseInterval, func() (acquired bool, _ error) {
		acquired, failure = acquire()
		return acquired && failure == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failure != nil:
		return hold("cannot take turns: %v", failure)
	}
	return hold("%s", reason)
}

// remind has poolers resumed by another invocation, if this one dies: after the hold, and when this one's Lease is no longer held.
func (m *move) remind(ctx context.Context) error {
	if m.Remind == nil || len(m.heldFronts()) == 0 {
		return nil
	}
	err := m.Remind(ctx, m.limit+leaseWait)
	if err != nil && !m.last {
		return hold("cannot leave a message that resumes poolers if this invocation dies: %v", err)
	}
	return nil
}

// makeMark makes the mark of what is going to be paused. It holds if the mark is too large to be kept.
func (m *move) makeMark() error {
	m.mark = markOf(m.facts, m.candidateName(), m.paths.fronts, time.Now(), m.limit)
	m.mark.carry(m.interrupted)
	switch text := m.mark.text(); {
	case len(text) > escort.MaxRecord:
		return hold("its %d poolers cannot be recorded before they are paused: their names take %d bytes, and at most %d fit",
			len(m.mark.Poolers)+len(m.mark.Late), len(text), escort.MaxRecord)
	case !isReadable(text):
		return hold("its poolers cannot be recorded before %s with those of an interrupted move: they are too many", m.mark.Again.Format(time.RFC3339))
	}
	return nil
}

// setMark records what is going to be paused: on the cluster's Lease, where others find it, and in the drain's record.
func (m *move) setMark(ctx context.Context) error {
	if err := m.lease.SetMark(ctx, m.mark.text()); err != nil {
		return err
	}
	if m.save == nil {
		return nil
	}
	return m.save(ctx, json.RawMessage(m.mark.text()))
}

// clear removes the mark and the record, or keeps in both what is left to do.
func (m *move) clear(ctx context.Context, stillPaused []markedPooler) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	m.mark.Moved = m.moved != "" || m.begun
	m.mark.join()
	if slices.ContainsFunc(m.heldFronts(), func(p *front) bool { return p.console.Unread() }) {
		m.mark.interrupt()
	}
	err := m.lease.SetMark(ctx, m.mark.rest(stillPaused))
	m.mark.Poolers = stillPaused
	if err != nil {
		m.log.Warn("failed to remove the mark of a move", "error", escort.Printable(err.Error()))
	}
	m.saveRecord(ctx, len(stillPaused) > 0 || m.mark.Moved)
}

// unresumed returns the poolers of an interrupted move that were not reached before this move, and are none of its own.
func (m *move) unresumed() []markedPooler {
	return slices.DeleteFunc(slices.Clone(m.mark.Late), func(late markedPooler) bool {
		return !slices.ContainsFunc(m.unreached, func(p markedPooler) bool { return p.Ref == late.Ref })
	})
}
