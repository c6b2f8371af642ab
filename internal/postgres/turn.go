package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"quiesce/internal/escort"
)

const (
	// leaseWait is how long a move waits for the Leases of poolers and cluster: a little longer than a crashed holder's Lease lasts.
	leaseWait = 35 * time.Second
	// leaseInterval is between two requests for a Lease.
	leaseInterval = time.Second
	// saveTimeout bounds the removal of marks at the end.
	saveTimeout = 5 * time.Second
)

// acquire takes the Leases of the poolers' groups in the order of their names, then the cluster's. What an earlier move left paused is
// resumed first.
func (m *move) acquire(ctx context.Context) (release func(), err error) {
	var held []func() error
	release = func() {
		for _, free := range slices.Backward(held) {
			m.release(free)
		}
	}
	deadline := time.Now().Add(leaseWait)
	if !m.deadline.IsZero() {
		deadline = escort.Earlier(deadline, m.deadline)
	}
	for _, name := range m.groups() {
		err := m.await(ctx, deadline, "poolers are being stopped by another drain", func() (bool, error) {
			free, acquired, err := m.cluster.AcquireGroupLease(ctx, name)
			if acquired {
				held = append(held, free)
			}
			return acquired, err
		})
		if err != nil {
			release()
			return nil, err
		}
	}
	err = m.await(ctx, deadline, "another move of its cluster is under way", func() (bool, error) {
		m.lease, err = m.cluster.AcquireMarkedLease(ctx, clusterLease(m.facts.Identity))
		return m.lease != nil, err
	})
	if err == nil {
		held = append(held, m.lease.Release)
		if err = m.undoMark(ctx); err == nil {
			return release, nil
		}
	}
	release()
	return nil, err
}

func (m *move) undoMark(ctx context.Context) error {
	if m.lease.Mark() == "" {
		return nil
	}
	m.log.Warn("found the mark of an interrupted move, resuming its poolers first")
	if _, err := m.clearMark(ctx, m.cluster, m.lease); err != nil {
		return hold("an interrupted move cannot be undone: %v", err)
	}
	return nil
}

func (m *move) groups() (names []string) {
	for _, p := range m.around.fronts {
		names = append(names, p.group())
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

// remind has poolers resumed by another invocation, if this one dies: after the hold, and when nobody holds this one's Lease any more.
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

// setMark records what is going to be paused: on the cluster's Lease, where others find it, and in the drain's record.
func (m *move) setMark(ctx context.Context) error {
	m.mark = markOf(m.facts, m.candidateName(), m.around.fronts, time.Now(), m.limit)
	if err := m.lease.SetMark(ctx, m.mark.text()); err != nil {
		return err
	}
	if m.save == nil {
		return nil
	}
	return m.save(ctx, json.RawMessage(m.mark.text()))
}

// clear removes the mark and the record, or keeps in both what is left to do.
func (m *move) clear(ctx context.Context, left []markedPooler) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	m.mark.Poolers = left
	m.mark.Moved = m.moved != "" || m.begun
	text, record := "", json.RawMessage(nil)
	if len(left) > 0 {
		text = m.mark.text()
	}
	if len(left) > 0 || m.mark.Moved {
		record = json.RawMessage(m.mark.text())
	}
	err := m.lease.SetMark(ctx, text)
	if m.save != nil {
		err = errors.Join(err, m.save(ctx, record))
	}
	if err != nil {
		m.log.Warn("failed to remove the mark of a move", "error", escort.Printable(err.Error()))
	}
}
