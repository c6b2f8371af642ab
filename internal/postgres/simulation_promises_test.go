package postgres

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// seen is what an invocation was told last about the cluster.
type seen struct {
	at              time.Time
	leader          string
	pending, paused bool
}

// steps is how far an invocation is with its move.
type steps struct {
	paused    map[string]bool // databases that it has paused, by pooler/database
	requested bool
	reminded  bool // a message that resumes poolers was sent, or could not be
}

func (s *simulation) noteReminder(i *incarnation) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.stepsOf(i).reminded = true
}

func (s *simulation) stepsOf(i *incarnation) *steps {
	if s.steps[i] == nil {
		s.steps[i] = &steps{paused: map[string]bool{}}
	}
	return s.steps[i]
}

// clusterLease returns the Lease of the cluster.
func (s *simulation) clusterLease() *worldLease {
	for name, l := range s.leases {
		if name == clusterLease(Identity{Namespace: "db", Cluster: "pg"}) {
			return l
		}
	}
	return &worldLease{}
}

// checkPause checks promise 6: the mark precedes the pause, and the holder of the Lease pauses.
func (s *simulation) checkPause(c *worldConsole, database string) {
	if s == nil {
		return
	}
	l := s.clusterLease()
	m, err := readMark(l.mark)
	switch {
	case l.holder != c.incarnation && !s.mayBelieve(c.incarnation):
		s.violate("6: %s paused %s without the cluster's Lease", c.incarnation.name, c.name)
	case l.holder != c.incarnation: // it believes that it holds the Lease; the mark may be gone
		s.counts["6 paused by one that does not know"]++
	case err != nil || !names(m, c.name, database):
		s.violate("6: %s paused %s, and no mark names it", c.incarnation.name, c.name)
	case s.stepsOf(c.incarnation).requested && !c.pooler.paused[database].IsZero():
		s.violate("6: %s paused %s after its request", c.incarnation.name, c.name)
	}
	if !s.stepsOf(c.incarnation).reminded {
		s.violate("6: %s paused %s, and no message resumes it", c.incarnation.name, c.name)
	}
	s.counts["6 paused after its mark"]++
	s.stepsOf(c.incarnation).paused[c.name+"/"+database] = true
	c.pooler.by, c.pooler.excused, c.pooler.letGo = c.incarnation, time.Time{}, false
}

func names(m *mark, pooler, database string) bool {
	return slices.ContainsFunc(m.Poolers, func(p markedPooler) bool {
		return p.Name == "pooler-"+pooler && slices.Contains(p.Databases, database)
	})
}

// checkMark checks promise 6: what is paused stays on the mark.
func (s *simulation) checkMark(l *heldLease, text string) {
	if s == nil {
		return
	}
	if l.worldLease.holder != l.i {
		s.violate("6: %s wrote a mark without the Lease", l.i.name)
	}
	before, err := readMark(l.mark)
	if err != nil {
		return
	}
	after, err := readMark(text)
	if err != nil {
		after = &mark{}
	}
	for name, p := range s.poolers {
		for database := range p.paused {
			if names(before, name, database) && !names(after, name, database) {
				s.violate("6: %s removed the mark of pooler %s, which is paused", l.i.name, name)
			}
		}
	}
}

// checkResume checks promises 1 and 5: how long clients waited, and who resumes.
func (s *simulation) checkResume(c *worldConsole, database string) {
	if s == nil {
		return
	}
	i, by := c.incarnation, c.pooler.by
	if by != nil && by != i && by == s.asker && s.version == s.askedVersion && len(s.request) > 0 && !i.looked && !i.isLate() {
		s.violate("3: %s resumed %s, and did not withdraw the request first", i.name, c.name)
	}
	if c.pooler.letGo = i.isLate() && by != nil && by != i; c.pooler.letGo {
		s.counts["3 let go by a command that comes late"]++
	}
	s.checkWait(c.name, c.pooler, database)
	if !s.reaches() { // their clients' next statements meet the old primary
		s.failed++
	}
	l := s.clusterLease()
	switch {
	case l.holder == i:
		s.counts["5 resumed with the Lease"]++
	case s.mayBelieve(i):
		s.counts["5 resumed by one that does not know"]++
	case by != nil && (by.dead || by.lapsed) && l.holder != nil && !l.holder.dead:
		// Two resume what an invocation has paused that is dead, or was taken over: its drain's next one, which does not wait until the
		// Lease expires, and whoever has taken the Lease over since. Nobody alive wants this pause.
		s.counts["5 resumed by two"]++
	case l.holder != nil && !l.holder.dead:
		s.violate("5: %s resumed %s, whose cluster's Lease %s holds", i.name, c.name, l.holder.name)
	default:
		s.counts["5 resumed for a dead holder"]++
	}
	if by == i {
		s.counts["1 resumed by its mover"]++
	} else {
		s.counts["1 resumed by another"]++
	}
}

// checkWait checks promise 1: for how long clients wait.
func (s *simulation) checkWait(name string, p *worldPooler, database string) {
	since := p.paused[database]
	if since.IsZero() || p.by == nil {
		return
	}
	ends := since.Add(maxWait)
	if !s.lastDeath.Before(since) { // its Lease expires, and a sweep follows within a minute
		ends = s.lastDeath.Add(30*time.Second + time.Minute + maxWait)
	}
	if s.hasFailed(p, since) {
		return
	}
	if time.Now().After(ends) {
		s.violate("1: clients of pooler %s waited for %v", name, time.Since(since))
	}
}

// hasFailed reports whether the pooler's console failed while it was paused, or calls failed that a resumption needs. Nobody can resume
// a pooler that does not answer.
func (s *simulation) hasFailed(p *worldPooler, since time.Time) bool {
	alone := !s.lastDeath.Before(since) && !s.sweeps // whoever comes first may be the sweep at the end
	return p.excused.After(since) || alone || !s.lastDeath.Before(since) && s.slow+s.failing+s.unheard > 0
}

// checkOver checks promises 1 and 3: an invocation that ends leaves nothing paused that could be resumed, and no request.
func (s *simulation) checkOver(i *incarnation) {
	if s.asker == i && s.version == s.askedVersion && len(s.request) > 0 && s.slow+s.failing+s.unheard == 0 && s.latency < time.Second/2 {
		s.violate("3: %s ended, and its request is there", i.name)
	}
	for name, p := range s.poolers {
		for _, since := range p.paused {
			if p.by == i && !s.hasFailed(p, since) && !s.isLeft(i, name) {
				s.violate("1: %s ended, and pooler %s is paused", i.name, name)
			}
		}
	}
}

// checkRequest checks promises 2, 3 and 6 when a switchover is requested.
func (s *simulation) checkRequest(i *incarnation, leader, candidate string) {
	if s == nil {
		return
	}
	held := s.counts["3 request by the key"]
	if s.rest {
		s.counts["3 request over HTTP"]++
	} else {
		s.counts["3 request by the key"] = held + 1
	}
	s.lines = append(s.lines, s.line(i.name, "requests "+leader+" to "+candidate, nil))
	if !s.rest {
		s.asker, s.askedVersion, i.looked = i, s.version+1, false
	}
	// What changed after the last look cannot be known. A request over HTTP cannot carry a version.
	switch known := i.seen; {
	case time.Since(known.at) > lastCheckTime+5*time.Second:
		s.violate("3: %s asked after a look that is %v old", i.name, time.Since(known.at))
	case known.paused:
		s.violate("3: %s asked in maintenance mode", i.name)
	case known.pending:
		s.violate("3: %s asked though somebody else had", i.name)
	case known.leader != leader:
		s.violate("3: %s asked %s, and %s leads", i.name, leader, known.leader)
	}
	if s.leader != leader {
		return // a failover since that look: Patroni refuses
	}
	s.checkOrder(i)
	if s.anyClient() {
		return // checkOrder allows it: a pooler restarted, or none is held
	}
	s.counts["2 request with all writes"]++
	if at := s.live - s.lag[candidate]; at < s.pooled {
		s.violate("2: %s asked for %s, which is at %v, and a client's write at %v was acknowledged", i.name, candidate, at, s.pooled)
	}
}

// checkActs checks promise 3 when Patroni acts on a request: whoever asked holds its clients, or has tried to withdraw the request.
func (s *simulation) checkActs(version int) {
	if s == nil || s.asker == nil || version != s.askedVersion || s.asker.dead || s.asker.lapsed {
		return
	}
	letGo := false
	for name, p := range s.poolers { // one that was never held does not count, nor one that has restarted, or was let go by a late command
		letGo = letGo || s.stepsOf(s.asker).paused[name+"/app"] && p.paused["app"].IsZero() && p.restarts == 0 && !p.letGo
	}
	if letGo && !s.asker.looked {
		s.violate("3: the primary moves as %s asked, which has let clients go and withdrawn nothing", s.asker.name)
	}
}

// checkOrder checks promise 6: every pooler in front is paused by this invocation before the request.
func (s *simulation) checkOrder(i *incarnation) {
	if l := s.clusterLease(); l.holder != i && s.mayBelieve(i) {
		s.counts["6 requested by one that does not know"]++
		s.stepsOf(i).requested = true
		return
	}
	m, err := readMark(s.clusterLease().mark)
	if err != nil {
		s.violate("6: %s requested without a mark", i.name)
		return
	}
	if l := s.clusterLease(); l.holder != i {
		s.violate("6: %s requested without the Lease", i.name)
	}
	for _, p := range m.Poolers {
		if s.isLast(i) { // it goes on without those that cannot be paused
			break
		}
		for _, database := range p.Databases {
			if !s.stepsOf(i).paused[p.Name[len("pooler-"):]+"/"+database] {
				s.violate("6: %s requested before it paused %s", i.name, p.Name)
			}
		}
	}
	s.stepsOf(i).requested = true
}

// isLast reports whether the time of the invocation's drain is over for anything but the last acts.
func (s *simulation) isLast(i *incarnation) bool {
	for _, d := range s.drains {
		if d.by == i && !d.evictBy.IsZero() && time.Until(d.evictBy) < lastLead {
			return true
		}
	}
	return false
}

// checkEvict checks promise 4.
func (s *simulation) checkEvict(i *incarnation, name string, r drain.EscortRequest) {
	if s == nil {
		return
	}
	s.lines = append(s.lines, s.line(i.name, "evicts "+name, nil))
	if slices.Contains(s.evicted, name) && s.unheard == 0 && s.lastDeath.IsZero() {
		s.violate("4: %s evicted %s twice", i.name, name)
	}
	last := !r.EvictBy.IsZero() && time.Until(r.EvictBy) < lastLead
	l := s.clusterLease()
	moving := l.holder != nil && !l.holder.dead && l.holder != i && !s.mayBelieve(i)
	switch {
	case last && name == s.leader:
		s.counts["4 primary evicted in the last minutes"]++
	case last:
	case name == s.leader && l.holder == i && l.since.After(s.promotedAt):
		s.violate("4: %s evicted %s, which became primary before the Lease was taken", i.name, name)
	case name == s.leader && i.seen.at.After(s.promotedAt):
		s.violate("4: %s evicted the primary %s, and there was time", i.name, name)
	case name == s.leader && s.mayBelieve(i):
	case name == s.leader && l.holder != i:
		s.violate("4: %s evicted %s, which another has made primary meanwhile", i.name, name)
	case name != s.leader && i.seen.pending:
		s.violate("4: %s evicted %s, and somebody had asked for a switchover", i.name, name)
	case moving:
		s.violate("4: %s evicted %s while %s moves its cluster", i.name, name, l.holder.name)
	case name != s.leader:
		s.counts["4 replica evicted"]++
	}
}

// checkEnd checks promises 1 and 7 at the end.
func (s *simulation) checkEnd() {
	for name, p := range s.poolers {
		if p.gone {
			continue
		}
		if len(p.paused) > 0 {
			s.violate("1: pooler %s is paused at the end", name)
		}
		if p.retry != "15" {
			s.violate("1: server_login_retry of pooler %s is %s at the end", name, p.retry)
		}
	}
	if len(s.request) > 0 && s.version == s.askedVersion {
		s.violate("3: a request is left at the end")
	}
	if mark := s.clusterLease().mark; mark != "" {
		s.violate("1: a mark is left: %s", mark)
	}
	s.counts["1 nothing paused at the end"]++
	if !s.clean {
		return
	}
	held := s.poolerCount > 0
	switch {
	case s.leader == "pg-0" || !slices.Contains(s.evicted, "pg-0"):
		s.violate("7: nothing failed, and the primary did not move")
	case held && s.failed > 0:
		s.violate("7: nothing failed, and transactions did")
	case held:
		s.counts["7 moved and nothing failed"]++
	}
}
