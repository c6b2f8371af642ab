package termination

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// simLease is the instance's Lease.
type simLease struct {
	holder        *simInvocation
	until         time.Time
	renewalFailed bool // at least once

	deadline time.Time // on the Lease; zero: none
	shorten  func(time.Time)
	records  map[string]string // of pods, by UID
}

func (k simCluster) Leases(ctx context.Context) (all []LeaseInfo, err error) {
	err = k.ask(ctx, api, func() error {
		for _, inst := range k.s.instances {
			if l := inst.node.lease; l != nil {
				all = append(all, LeaseInfo{Name: inst.id, Held: time.Now().Before(l.until)})
			}
		}
		return nil
	})
	return all, err
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
func (k simCluster) AcquireLease(ctx context.Context, id string, shorten func(time.Time)) (Lease, error) {
	mine, acquired := &simLease{holder: k.simInvocation, shorten: shorten, records: map[string]string{}}, false
	err := k.effect(ctx, api, "acquire", id, func() error {
		n := k.s.instance(id).node
		if n.lease != nil && time.Now().Before(n.lease.until) {
			return nil
		}
		k.checkAcquire(n.lease, id)
		mine.until, acquired = time.Now().Add(leaseTime), true
		if n.lease != nil { // the last holder crashed, or handed off
			mine.deadline, mine.records = n.lease.deadline, maps.Clone(n.lease.records)
			mine.readDeadline()
		}
		n.lease = mine
		return nil
	})
	if !acquired || err != nil {
		return nil, err
	}
	k.setHeld(id, true)
	renewing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); k.renew(renewing, mine) }()
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
	return h.effect(ctx, api, "record", uid, func() error {
		if h.s.instance(h.id).node.lease != h.lease {
			return errors.New("another invocation holds the lease")
		}
		h.lease.records[uid] = text
		if text == "" {
			delete(h.lease.records, uid)
		}
		return nil
	})
}

// ShortenDeadline leaves a deadline on the Lease.
func (k simCluster) ShortenDeadline(ctx context.Context, id string, deadline time.Time) error {
	return k.effect(ctx, api, "shorten", id, func() error {
		k.s.counts["deadline shortened"]++
		if l := k.s.instance(id).node.lease; l != nil {
			l.deadline = deadline
		}
		return nil
	})
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
	k.holds[id] = held
	if inst := k.s.instance(id); held {
		inst.leaseHolders = append(inst.leaseHolders, k.simInvocation)
	} else {
		inst.leaseHolders = slices.DeleteFunc(inst.leaseHolders, func(i *simInvocation) bool { return i == k.simInvocation })
	}
}

func (k simCluster) renew(ctx context.Context, l *simLease) {
	for pause(ctx, leasePace) == nil {
		err := k.ask(ctx, api, func() error {
			l.until = time.Now().Add(leaseTime)
			l.readDeadline()
			return nil
		})
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
		l.until = time.Time{}
		if keep != KeepAll {
			l.deadline = time.Time{}
		}
		if keep == KeepNothing {
			l.records = nil
		}
		if inst.node.lease == l && l.deadline.IsZero() && len(l.records) == 0 {
			inst.node.lease = nil
		}
		if inst.isWaiting() {
			inst.action.heldSince = time.Time{}
		}
		return nil
	})
}
