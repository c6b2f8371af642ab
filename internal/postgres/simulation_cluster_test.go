package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/escort"
)

// act does what the seed decided. The caller holds the mutex.
func (s *simulation) act(a act) {
	who, pooler := a.who, s.poolers[string(rune('a'+len(a.who)+int(a.span)%3-4))]
	if strings.HasPrefix(a.what, "leader ") {
		who = s.leader
	}
	s.counts[a.what]++
	s.lines = append(s.lines, s.line("", fmt.Sprintf("%s %s for %v", a.what, who, a.span), nil))
	switch a.what {
	case "down", "leader down":
		s.fall(s.down, who, a.span)
	case "frozen", "leader frozen":
		s.fall(s.frozen, who, a.span)
	case "stalled":
		s.stalled[who] = true
		s.locked(a.span, func() { delete(s.stalled, who) })
	case "lags":
		s.speed[who] = s.rate / 2
		s.locked(a.span, func() { s.speed[who] = 10_000_000 })
	case "switchover":
		s.switchover(who)
	case "handover":
		if to := s.successor(s.leader, who); to != "" && !s.paused {
			s.demoteWithin(a.span%demotionTime, to)
		}
	case "maintenance":
		s.paused = true
		s.locked(2*a.span, func() { s.paused = false })
	}
	if pooler == nil {
		return
	}
	switch a.what {
	case "pooler gone":
		pooler.gone, pooler.paused, pooler.restarts = true, map[string]time.Time{}, pooler.restarts+1
	case "pooler restarts":
		pooler.paused, pooler.restarts, pooler.retry = map[string]time.Time{}, pooler.restarts+1, "15"
	case "console hangs":
		s.slowUntil[string(rune('a'+len(a.who)+int(a.span)%3-4))] = time.Now().Add(a.span)
	case "long transaction":
		pooler.longTx = true
		s.locked(a.span, func() { pooler.longTx = false })
	case "quiet transaction":
		pooler.quiet = a.span
		s.locked(a.span, func() { pooler.quiet = 0 })
	}
}

// fall takes a member out for a while. If it leads, another takes over when its key has expired.
func (s *simulation) fall(out map[string]bool, who string, while time.Duration) {
	if out[who] || slices.Contains(s.evicted, who) {
		return
	}
	out[who] = true
	if who == s.leader && s.silentSince.IsZero() {
		s.silentSince = time.Now()
		for name := range s.members { // what it has written last is not sent yet
			s.lag[name] += LSN(s.rate / 20)
		}
		s.live += LSN(s.rate / 20)
		s.lag[who] = 0
	}
	s.locked(30*time.Second, func() { s.failOver(who) })
	s.locked(while, func() {
		delete(out, who)
		s.starting[who] = time.Now().Add(s.streamsIn)
		if who == s.leader {
			s.silentSince = time.Time{}
		}
	})
}

// failOver promotes another if the leader is silent still. What the leader alone has is lost.
func (s *simulation) failOver(who string) {
	next := s.successor(who, "")
	if who != s.leader || !(s.down[who] || s.frozen[who]) || next == "" || s.paused {
		return
	}
	if s.lag[next] > 0 {
		s.counts["2 failover that loses writes"]++
	}
	s.live -= s.lag[next]
	s.pooled = min(s.pooled, s.live)
	behind := s.lag[next]
	for name := range s.lag {
		s.lag[name] = behind.Behind(s.lag[name])
	}
	s.silentSince, s.stopping = time.Time{}, false
	s.promote(next)
	s.lines = append(s.lines, s.line("", "failover to "+next, nil))
}

// switchover is what patronictl does.
func (s *simulation) switchover(to string) {
	if to == s.leader || len(s.request) > 0 || s.leader == "" {
		return
	}
	s.counts["somebody else's switchover"]++
	s.version++
	s.request = map[string]string{"leader": s.leader, "member": to}
	s.loop(s.began.Add(time.Since(s.began).Truncate(testLoop)+testLoop), s.version, escort.Failover{Leader: s.leader, Candidate: to, At: time.Now()})
}

// advance lets clients write and replicas receive, until now.
func (s *simulation) advance() {
	if s == nil {
		return
	}
	passed := time.Since(s.advanced).Seconds()
	s.advanced = time.Now()
	pooled := s.anyClient()
	if pooled && s.leader != "" && !s.stopping && !s.down[s.leader] && s.pathTo == s.leader {
		written := LSN(s.rate * passed)
		s.live += written
		s.pooled = s.live
		for name := range s.members {
			if name != s.leader {
				s.lag[name] += written
			}
		}
	}
	for name := range s.lag {
		if !s.down[name] && !s.stalled[name] && !s.down[s.leader] {
			s.lag[name] = LSN(s.speed[name] * passed).Behind(s.lag[name])
		}
	}
}

// anyClient reports whether a pooler lets its clients write.
func (s *simulation) anyClient() bool {
	for _, p := range s.poolers {
		if !p.gone && p.paused["app"].IsZero() {
			return true
		}
	}
	return false
}

func (s *simulation) isStalled(name string) bool { return s != nil && s.stalled[name] }

// reaches reports whether a pooler's new connections reach the leader.
func (s *simulation) reaches() bool {
	return s == nil || s.pathTo == s.leader && !s.stopping && !s.down[s.leader]
}

// stops is called when the leader begins to stop.
func (s *simulation) stops() {
	if s != nil && s.anyClient() {
		s.failed++
	}
}

// follows is called when the Service leads to a new leader. kube-proxy follows later.
func (s *simulation) follows(name string) {
	if s == nil {
		return
	}
	s.locked(s.pathLag, func() {
		if s.leader == name {
			s.pathTo = name
		}
	})
}

// promotes is called when a member becomes leader after a clean stop, which ships everything to every member that receives.
func (s *simulation) promotes(name string) {
	if s == nil {
		return
	}
	s.promotedAt = time.Now()
	s.lines = append(s.lines, s.line("", "promoted "+name, nil))
	s.starting[s.leader] = time.Now().Add(s.streamsIn)
	delete(s.lag, name)
	if old := s.serviceTo; old != name {
		s.lag[old], s.starting[old] = 0, time.Now().Add(s.streamsIn)
	}
}

// commits is called when a pooler's open transactions have ended. They wrote something at the end.
func (s *simulation) commits(c *worldConsole, restarts int) error {
	if s == nil {
		return nil
	}
	defer c.enter()()
	if c.pooler.restarts != restarts {
		return errors.New("the connection is closed")
	}
	if s.reaches() {
		s.live += 100
		s.pooled = s.live
		for name := range s.members {
			if name != s.leader {
				s.lag[name] += 100
			}
		}
	}
	return nil
}
