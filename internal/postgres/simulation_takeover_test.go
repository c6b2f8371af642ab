package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
)

// takeover is that an invocation's Leases expire while it runs: it could not renew them, or its clock is wrong. Others may take them, and it
// does not know yet.
type takeover struct {
	after int           // effects; zero: there is none
	by    string        // who takes them first: a drain or a sweep
	in    time.Duration // how long that takes
	blind time.Duration // for how long the invocation believes to hold them
	stall time.Duration // for how long one call to a console stands still before it has its effect, whatever its context says; zero: none does
	fatal bool          // the invocation dies with that effect
}

func (s *scenario) drawTakeover(r dice) {
	if !r.one(3) {
		return
	}
	s.takeover = takeover{after: 1 + r.IntN(12), by: []string{"drain", "sweep"}[r.IntN(2)], in: r.between(0, 4*time.Second)}
	if r.one(2) { // the next renewal tells it
		s.takeover.blind = r.between(time.Second, 12*time.Second)
	}
	if r.one(3) {
		s.takeover.stall, s.takeover.fatal = r.between(time.Second, []time.Duration{20 * time.Second, 10 * time.Minute}[r.IntN(2)]), r.one(2)
	}
}

// takeable is the drain of a member, as one invocation holds it.
type takeable struct {
	by      *incarnation
	evictBy time.Time
	abandon context.CancelCauseFunc
	taken   bool
}

// takeDrain takes the Lease of the member's instance.
func (s *simulation) takeDrain(ctx context.Context, i *incarnation, name string, evictBy time.Time) (context.Context, *takeable) {
	ctx, abandon := context.WithCancelCause(ctx)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.drains[name] = &takeable{by: i, evictBy: evictBy, abandon: abandon}
	return ctx, s.drains[name]
}

var errTaken = errors.New("another invocation holds the lease")

// saving is what replaces a pod's record.
type saving func(ctx context.Context, record json.RawMessage, onlyCopy bool) error

// saveOf lets only the holder of the instance's Lease save records. An error of a write tells an invocation that its Lease is another's.
func (s *simulation) saveOf(held *takeable, save saving) saving {
	return func(ctx context.Context, record json.RawMessage, onlyCopy bool) error {
		if s.isTaken(held) {
			held.abandon(drain.ErrTakenOver)
			return errTaken
		}
		return save(ctx, record, onlyCopy)
	}
}

func (s *simulation) isTaken(held *takeable) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return held.taken
}

// expire lets the Leases of an invocation expire if it has that of the cluster, and others take them. The caller holds the mutex.
func (s *simulation) expire(i *incarnation) bool {
	if s == nil || !s.isFailing() || s.clusterLease().holder != i {
		return false
	}
	name := ""
	for member, d := range s.drains {
		if d.by == i {
			name = member
		}
	}
	if name == "" { // a sweep's
		return false
	}
	for _, l := range s.leases {
		l.expired = l.expired || l.holder == i
	}
	now := time.Now()
	s.lastDeath, i.lapsed, i.blind = now, true, now.Add(s.takeover.in+s.takeover.blind)
	i.stall = s.takeover.stall
	s.lines = append(s.lines, s.line(i.name, "Leases expire", nil))
	s.counts["Leases taken by a "+s.takeover.by]++
	if s.takeover.blind > 0 {
		s.counts["noticed late"]++
	} else {
		s.counts["noticed at once"]++
	}
	taken := s.drains[name]
	taken.taken = s.takeover.by == "drain"
	s.running.Go(func() { s.takeOver(name, taken) })
	return true
}

// takeOver is what the next invocation does. The first one learns of it later.
func (s *simulation) takeOver(name string, taken *takeable) {
	time.Sleep(s.takeover.in)
	if s.takeover.by == "sweep" {
		s.resume("other")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxSimulation-time.Since(s.began))
	defer cancel()
	time.AfterFunc(s.takeover.blind, func() { taken.abandon(drain.ErrTakenOver) })
	s.repeat(ctx, name, taken.evictBy)
}

// isBlind reports whether it believes to hold Leases that may be another's.
func (i *incarnation) isBlind() bool { return time.Now().Before(i.blind) }

// mayBelieve reports whether the invocation was told a moment ago that its Leases are its own. What it did then takes its time.
func (s *simulation) mayBelieve(i *incarnation) bool {
	reach := 2 * s.latency
	if s.slow > 0 {
		reach += 5 * time.Second
	}
	return time.Since(i.assured) <= reach || i.isLate()
}

// isLate reports whether what the invocation does at this moment is the command that stood still. Nothing can keep a pooler from obeying it.
func (i *incarnation) isLate() bool { return i.woke.Equal(time.Now()) }

// standStill lets one command stand still, though its time is over meanwhile. It reports whether it did. The invocation learns of nothing in
// that time.
func (s *simulation) standStill(c *worldConsole) (stood bool) {
	if s == nil {
		return false
	}
	s.mutex.Lock()
	stall := c.stall
	if stood = stall > 0; stood {
		c.stall, c.blind = 0, time.Now().Add(stall)
		s.counts["stood still"]++
		s.lines = append(s.lines, s.line(c.incarnation.name, fmt.Sprintf("stands still before a command to %s for %v", c.name, stall), nil))
	}
	s.mutex.Unlock()
	if !stood {
		return false
	}
	time.Sleep(stall)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	c.woke, c.unsure, c.doomed = time.Now(), time.Now().Add(time.Second), s.takeover.fatal
	s.excuse(c.name)
	s.lines = append(s.lines, s.line(c.incarnation.name, "goes on", nil))
	return true
}

// isLeft reports whether a paused pooler is left to the new holder of the Lease, who has its mark.
func (s *simulation) isLeft(i *incarnation, pooler string) bool {
	l := s.clusterLease()
	m, err := readMark(l.mark)
	left := err == nil && l.isHeld() && l.holder != i && names(m, pooler, "app")
	if left {
		s.counts["left to a new holder"]++
	}
	return left
}
