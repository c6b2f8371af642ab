package termination

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

// simLease is the instance's Lease.
type simLease struct {
	holder        *simInvocation
	until         time.Time
	renewalFailed bool // at least once

	deadline time.Time // on the Lease; zero: none
	shorten  func(time.Time)
	lost     func()
	records  map[string]string // of pods, by UID
	closed   []ClosedNode
	received time.Time
	attempts int // acquisitions since the last that was released, or before whose end a pod was gone
}

// escorted returns the UIDs of the pods that have an escort's record.
func (l *simLease) escorted() (uids []string) {
	for _, key := range slices.Sorted(maps.Keys(l.records)) {
		if uid, is := strings.CutPrefix(key, drain.EscortRecord); is {
			uids = append(uids, uid)
		}
	}
	return uids
}

func (k simCluster) Leases(ctx context.Context) (all []LeaseInfo, err error) {
	err = k.ask(ctx, api, func() error {
		for _, inst := range k.s.instances {
			if l := inst.node.lease; l != nil {
				all = append(all, LeaseInfo{Name: inst.id, Held: time.Now().Before(l.until), Received: l.received, Closed: slices.Clone(l.closed), Escorted: l.escorted()})
			}
		}
		return nil
	})
	return all, err
}

func (k simCluster) ReadRecords(context.Context, string) (drain.Records, error) {
	return nil, errors.New("no plan is simulated")
}

func (k simCluster) DeleteFreeLease(ctx context.Context, id string) error {
	return k.effect(ctx, api, "delete lease", id, func() error {
		n := k.s.instance(id).node
		if n.lease == nil || time.Now().Before(n.lease.until) {
			return nil
		}
		k.s.counts["lease deleted"]++
		k.checkDeleteLease(id)
		n.lease = nil
		return nil
	})
}

// AcquireLease acquires the Lease, and renews it until ctx ends or it is released.
func (k simCluster) AcquireLease(ctx context.Context, id string, a Acquisition) (Lease, error) {
	mine, acquired := &simLease{holder: k.simInvocation, shorten: a.Shorten, lost: a.Lost, received: a.Received, records: map[string]string{}}, false
	err := k.effect(ctx, api, "acquire", id, func() error {
		n := k.s.instance(id).node
		if n.lease != nil && time.Now().Before(n.lease.until) {
			return nil
		}
		k.checkAcquire(n.lease, id)
		mine.until, acquired, mine.attempts = time.Now().Add(leaseTime), true, 1
		if n.lease != nil { // the last holder crashed, or handed off
			mine.deadline, mine.records = n.lease.deadline, maps.Clone(n.lease.records)
			mine.closed, mine.attempts = slices.Clone(n.lease.closed), n.lease.attempts+1
			if before := n.lease.received; !before.IsZero() && (mine.received.IsZero() || before.Before(mine.received)) {
				mine.received = before
			}
			mine.readDeadline()
		}
		if !a.Deadline.IsZero() {
			mine.setDeadline(a.Deadline)
		}
		n.lease = mine
		return nil
	})
	k.s.locked(func() { k.unleased[id], k.plain[id] = err != nil, err != nil })()
	if !acquired && err == nil {
		return nil, nil
	}
	k.setHeld(id, true)
	if err != nil { // it may drain all the same, with plain evictions
		return nil, err
	}
	renewing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); k.renew(renewing, mine, id) }()
	return heldLease{k, mine, id, ctx, func() { stop(); <-done }}, nil
}

// heldLease is a Lease that an invocation holds.
type heldLease struct {
	simCluster
	lease *simLease
	id    string
	ctx   context.Context
	stop  func()
}

// Record returns what the holder last read from its Lease.
func (h heldLease) Record(uid string) (text string) {
	h.s.locked(func() { text = h.lease.records[uid] })()
	return text
}

func (h heldLease) SetRecord(ctx context.Context, uid, text string) error {
	return h.change(ctx, "record", uid, func() {
		h.lease.records[uid] = text
		if text == "" {
			delete(h.lease.records, uid)
		}
	})
}

func (h heldLease) FirstReceived() time.Time { return h.lease.received }

func (h heldLease) UncleanEnds() (n int) {
	h.s.locked(func() {
		if n = h.lease.attempts - 1; n >= uncleanWithoutEscorts {
			h.s.counts["drain after unclean ends"]++
			h.plain[h.id] = true
		}
	})()
	return n
}

func (h heldLease) PodGone() { h.s.locked(func() { h.lease.attempts = 0 })() }

func (h heldLease) Closed() (all []ClosedNode) {
	h.s.locked(func() { all = slices.Clone(h.lease.closed) })()
	return all
}

func (h heldLease) Escorted() (uids []string) {
	h.s.locked(func() {
		for _, key := range slices.Sorted(maps.Keys(h.lease.records)) {
			if uid, is := strings.CutPrefix(key, drain.EscortRecord); is {
				uids = append(uids, uid)
			}
		}
	})()
	return uids
}

func (h heldLease) SetClosed(ctx context.Context, n ClosedNode) error {
	return h.change(ctx, "save", n.UID, func() { h.forget(n.UID); h.lease.closed = append(h.lease.closed, n) })
}

func (h heldLease) ForgetClosed(ctx context.Context, nodeUID string) error {
	return h.change(ctx, "forget", nodeUID, func() { h.forget(nodeUID) })
}

func (h heldLease) forget(nodeUID string) {
	h.lease.closed = slices.DeleteFunc(h.lease.closed, func(n ClosedNode) bool { return n.UID == nodeUID })
}

// change writes to the Lease, if it is still ours.
func (h heldLease) change(ctx context.Context, what, who string, do func()) error {
	return h.lease.tell(h.effect(ctx, api, what, who, func() error {
		if !h.isHolder(h.lease, h.id) {
			return errSimLeaseLost
		}
		h.lease.until = time.Now().Add(leaseTime)
		do()
		return nil
	}))
}

var errSimLeaseLost = errors.New("another invocation holds the lease")

// tell tells the holder that its Lease is another's, before it learns the error of its write.
func (l *simLease) tell(err error) error {
	if errors.Is(err, errSimLeaseLost) && l.lost != nil {
		l.lost()
	}
	return err
}

// isHolder reports whether the Lease is still this one.
func (k simCluster) isHolder(l *simLease, id string) bool {
	if k.s.instance(id).node.lease == l {
		return true
	}
	k.s.counts["lease lost"]++
	return false
}

// ShortenDeadline leaves a deadline on the Lease.
func (k simCluster) ShortenDeadline(ctx context.Context, id string, deadline time.Time) error {
	return k.effect(ctx, api, "shorten", id, func() error {
		k.s.counts["deadline shortened"]++
		if l := k.s.instance(id).node.lease; l != nil {
			l.setDeadline(deadline)
		}
		return nil
	})
}

// setDeadline keeps an earlier deadline, unless it is of an interruption that is over.
func (l *simLease) setDeadline(deadline time.Time) {
	if l.deadline.IsZero() || l.deadline.After(deadline) || time.Since(l.deadline) >= 2*time.Minute {
		l.deadline = deadline
	}
}

func (l *simLease) readDeadline() {
	if !l.deadline.IsZero() {
		l.shorten(l.deadline)
	}
}

// setHeld notes whether the invocation believes that it holds the Lease.
func (k simCluster) setHeld(id string, held bool) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.holds[id] = held && !k.unleased[id]
	inst := k.s.instance(id)
	inst.leaseHolders = slices.DeleteFunc(inst.leaseHolders, func(i *simInvocation) bool { return i == k.simInvocation })
	if held {
		inst.leaseHolders = append(inst.leaseHolders, k.simInvocation)
	}
}

func (k simCluster) renew(ctx context.Context, l *simLease, id string) {
	for wait := leasePace; drain.Sleep(ctx, wait) == nil; {
		err := l.tell(k.ask(ctx, api, func() error {
			if !k.isHolder(l, id) {
				return errSimLeaseLost
			}
			l.until = time.Now().Add(leaseTime)
			l.readDeadline()
			return nil
		}))
		wait = leasePace
		if err != nil {
			wait = time.Second
		}
		k.s.locked(func() { l.renewalFailed = l.renewalFailed || err != nil })()
	}
}

func (h heldLease) Release(keep Keep) error {
	h.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), 2*time.Second)
	defer cancel()
	h.setHeld(h.id, false)
	return h.effect(ctx, api, "release", h.id, func() error {
		inst, l := h.s.instance(h.id), h.lease
		l.until, l.attempts = time.Time{}, 0
		if keep != KeepAll {
			l.received = time.Time{}
		}
		if keep < KeepRecords {
			l.records = map[string]string{}
		}
		if keep == KeepNothing {
			l.closed, l.deadline = nil, time.Time{}
		}
		if inst.node.lease == l && keep != KeepAll && len(l.records)+len(l.closed) == 0 && l.deadline.IsZero() {
			inst.node.lease = nil
		}
		if inst.isWaiting() {
			inst.action.heldSince = time.Time{}
		}
		return nil
	})
}
