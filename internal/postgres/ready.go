package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"quiesce/internal/escort"
)

// ready looks again under the Leases, and checks that a pause can begin. Before are the poolers that could be held at the first look.
func (m *move) ready(ctx context.Context, before []*front) error {
	if err := m.assess(ctx); err != nil {
		return err
	}
	if err := m.checkReplaced(); err != nil {
		return err
	}
	m.limit = m.PauseTimeout
	if m.last && !m.unnamed { // what follows it needs its time: a member that is told to stop late is killed before its shutdown is over
		if m.limit = min(m.limit, time.Until(m.deadline)-m.waitForLoop()); m.limit < m.leastHold() {
			return hold("the drain's time is nearly over")
		}
	}
	for _, p := range m.paths.fronts {
		if p.paused != "" && !m.last {
			return hold("another administrator has paused database %s of pooler %s", p.paused, p.pod.Ref)
		}
		if p.unheld != "" {
			if err := m.checkUnheld(p); err != nil {
				return err
			}
			continue
		}
		m.boundBy(p.queryWait, queryWaitReserve)
		m.boundBy(p.queryTime, queryTimeReserve)
		if err := m.checkTransactions(ctx, p); err != nil {
			return err
		}
	}
	if err := m.checkStillHeld(before); err != nil {
		return err
	}
	if err := m.checkTurns(); err != nil {
		return err
	}
	if err := m.checkOthers(); err != nil {
		return err
	}
	if err := m.checkUnpaused(); err != nil {
		return err
	}
	if least := m.leastHold(); m.limit < least {
		return hold("clients could be held for %v only, and a switchover may take %v: raise query_wait_timeout, query_timeout or pauseTimeout", m.limit, least)
	}
	if end, limited := ctx.Deadline(); limited && time.Until(end) < m.waitForLoop()+m.limit+invocationReserve {
		return errTooShort
	}
	return nil
}

// boundBy bounds the hold by a setting of a pooler that ends the wait of its clients; zero: it ends no wait. At the end of the drain's time the
// setting leaves time for open transactions and a switchover: without a hold, clients of every pooler fail.
func (m *move) boundBy(setting, reserve time.Duration) {
	if setting == 0 {
		return
	}
	limit := setting - reserve
	if m.last {
		limit = max(limit, m.leastHold()*3/2)
	}
	m.limit = min(m.limit, limit)
}

// checkUnpaused holds a primary of CloudNativePG while a database that leads to it cannot be paused: what its clients write during the
// switchover may be lost. With Patroni nothing is, and such databases do not keep the primary.
func (m *move) checkUnpaused() error {
	if m.last || m.facts.Operator.UsesPatroni() {
		return nil
	}
	for _, p := range slices.Concat(m.paths.fronts, m.paths.others) {
		if p.idle > 0 || p.unnamable || len(p.streaming) > 0 {
			return hold("CloudNativePG can lose what clients of pooler %s write during its switchover: %s", p.pod.Ref, p.whatIsNotPaused())
		}
	}
	return nil
}

// checkReplaced holds the primary while a pooler is replaced that leads to it, or may: that pooler has all of its clients until it stops, and
// the Lease of its group is another's.
func (m *move) checkReplaced() error {
	if m.last {
		return nil
	}
	for _, p := range slices.Concat(m.paths.fronts, m.paths.others) {
		if p.isReplaced() && (p.unheld != "" || len(p.databases) > 0) {
			return hold("pooler %s is being replaced", p.pod.Ref)
		}
	}
	return nil
}

// checkStillHeld holds the primary if the clients of a pooler could be held a moment ago, and cannot now. They would meet the switchover. A
// pooler that is gone has none.
func (m *move) checkStillHeld(before []*front) error {
	if m.last {
		return nil
	}
	for _, p := range slices.Concat(m.paths.fronts, m.paths.others) {
		isHeld := p.unheld == "" && len(p.databases) > 0
		wasHeld := slices.ContainsFunc(before, func(b *front) bool { return b.pod.Ref == p.pod.Ref })
		if wasHeld && !isHeld && (p.pod.Deleted.IsZero() || p.serves()) {
			return hold("clients of pooler %s could be held a moment ago, and cannot now: %s", p.pod.Ref,
				cmp.Or(p.unheld, "it does not lead to the primary any more"))
		}
	}
	return nil
}

// checkTurns holds the primary if a pooler is paused whose group's Lease this move has not taken: the pooler appeared since the first look.
// Another drain may stop it in the middle of the pause. The next try takes its Lease.
func (m *move) checkTurns() error {
	if m.last {
		return nil
	}
	for _, p := range m.heldFronts() {
		if !slices.ContainsFunc(m.turns, func(t turn) bool { return t.name == escort.PoolerLease(p.pod) }) {
			return hold("pooler %s has appeared a moment ago", p.pod.Ref)
		}
	}
	return nil
}

// checkTransactions holds while a transaction is open that a pause would wait for too long.
func (m *move) checkTransactions(ctx context.Context, p *front) error {
	if m.last {
		return nil
	}
	for _, database := range p.databases {
		quiet, err := p.console.Oldest(ctx, database)
		switch {
		case err != nil:
			return hold("pooler %s: %v", p.pod.Ref, err)
		case quiet >= maxQuiet:
			return hold("a transaction of database %s has been open for %v or more at pooler %s", database, quiet, p.pod.Ref)
		}
	}
	return nil
}

// checkUnheld holds a primary in front of which a pooler's console does not answer: it may in a moment. And it holds one of CloudNativePG in
// front of which a pooler cannot hold its clients. The operator chooses the new primary before the old one has stopped, so a write in between
// may not reach it (https://github.com/cloudnative-pg/cloudnative-pg/issues/11293).
func (m *move) checkUnheld(p *front) error {
	switch {
	case m.last:
		return nil
	case !m.facts.Operator.UsesPatroni():
		return hold("clients of pooler %s cannot be held, and CloudNativePG can lose what they write during its switchover: %s", p.pod.Ref, p.unheld)
	case p.serves():
		return hold("pooler %s is stopping, and may have its clients until it is gone", p.pod.Ref)
	case p.silent:
		return hold("the console of pooler %s does not answer: %s", p.pod.Ref, p.unheld)
	}
	return nil
}

// checkOthers holds a primary of CloudNativePG for a pooler whose console does not answer: it may be in front. With Patroni no write is lost,
// and a pooler of which nothing says where it leads must not keep every primary of its namespace.
func (m *move) checkOthers() error {
	if m.facts.Operator.UsesPatroni() {
		return nil
	}
	for _, p := range m.paths.others {
		mayLeadHere := p.serves() && p.elsewhere == 0 && !belongsElsewhere(p.pod, m.facts.Identity)
		if !p.silent && !mayLeadHere {
			continue
		}
		if err := m.checkUnheld(p); err != nil {
			return err
		}
	}
	return nil
}

// leastHold returns for how long clients must be able to wait.
func (m *move) leastHold() time.Duration {
	if !m.facts.Operator.UsesPatroni() {
		return cnpgMinHold
	}
	return minHold
}
