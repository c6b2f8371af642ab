package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// streaming is the state of a replica that receives the log as it is written.
const streaming = "streaming"

// Assess decides whether the leader can switch over to another member now, and to which one. It is pure. When in doubt, it holds.
func Assess(f Facts, s Settings, now time.Time) Assessment {
	return assess(f, s, now, func(m Member) string { return m.Leaving })
}

// AssessLast is Assess for the end of the drain's time: a candidate may be on a node that leaves too, and what a move disturbs is disturbed
// in any case.
func AssessLast(f Facts, s Settings, now time.Time) Assessment {
	return assess(f.withoutWork(), s, now, func(Member) string { return "" })
}

// assess is Assess with its own way to say why a member's node does not stay.
func assess(f Facts, s Settings, now time.Time, leaving func(Member) string) Assessment {
	a := Assessment{Warnings: slices.Clone(f.Warnings)}
	if a.Plain = f.plain(); a.Plain != "" {
		return a
	}
	a.Holds = append(f.leaderHolds(now), f.clusterHolds()...)
	if len(a.Holds) > 0 {
		return a
	}
	candidates := chooser{Facts: f, leader: *f.LeaderMember(), limit: f.lagLimit(s), leaving: leaving}
	if a.Candidate = candidates.choose(); a.Candidate == nil {
		a.Holds = append(a.Holds, candidates.noCandidate())
		return a
	}
	a.Warnings = append(append(a.Warnings, f.warnings()...), f.workWarnings(*a.Candidate)...)
	return a
}

// plain returns why the leader needs no move.
func (f *Facts) plain() string {
	leader := f.LeaderMember()
	switch {
	case leader == nil || f.Paused || leader.CriticalOperation:
		return ""
	case f.Standby && leader.Live && leader.Role != Primary:
		return "the cluster follows another one and takes no writes"
	case f.isSingle() && leader.Disk == "" && !f.isUnattachable():
		return "it is the only member of its cluster, and its volumes follow it to another node"
	default:
		return ""
	}
}

// inMaintenance reports whether Patroni is in maintenance mode, as its configuration or any member says.
func (f *Facts) inMaintenance() bool {
	return f.Paused || slices.ContainsFunc(f.Members, func(m Member) bool { return m.Paused })
}

// isSingle reports whether the leader is the only member.
func (f *Facts) isSingle() bool {
	return len(f.Members) == 1 && f.Members[0].Name == f.Leader && f.Others == 0 && len(f.Holds) == 0
}

// leaderHolds returns what is wrong with the leader.
func (f *Facts) leaderHolds(now time.Time) (holds []string) {
	add := func(format string, args ...any) { holds = append(holds, fmt.Sprintf(format, args...)) }
	leader := f.LeaderMember()
	switch {
	case f.Leader == "":
		return []string{"no member leads the cluster"}
	case leader == nil:
		return []string{fmt.Sprintf("the leader %s is not among the cluster's pods", f.Leader)}
	case leader.Terminating:
		add("the leader %s is stopping already", f.Leader)
	}
	if stale := f.staleLeader(now); stale != "" {
		add("%s", stale)
	}
	if others := f.otherLeaders(); others != "" {
		add("%s", others)
	}
	switch {
	case !leader.Live:
		add("the leader %s does not say its position in the log%s", f.Leader, because(leader.Failure))
	case leader.Unlocked:
		add("the leader %s sees no leader key", f.Leader)
	case !f.LeaderLive || f.LeaderLSN == 0:
		add("the leader %s does not know its position in the log", f.Leader)
	}
	return holds
}

// staleLeader returns why the leader's key is not to be believed. The leader renews it in each loop, by its own clock.
func (f *Facts) staleLeader(now time.Time) string {
	if !f.Operator.UsesPatroni() {
		return ""
	}
	age := now.Sub(f.RenewTime)
	switch {
	case f.RenewTime.IsZero():
		return fmt.Sprintf("it is not known when the leader %s last renewed its key", f.Leader)
	case age > f.TTL:
		return fmt.Sprintf("the leader %s last renewed its key %s ago, more than its time to live of %s", f.Leader, rounded(age), f.TTL)
	case age < -f.TTL:
		return fmt.Sprintf("the clock of the leader %s is %s ahead", f.Leader, rounded(-age))
	default:
		return ""
	}
}

// otherLeaders returns why members do not agree who leads.
func (f *Facts) otherLeaders() string {
	switch {
	case len(f.Leaders) == 0:
		return fmt.Sprintf("%s should lead, but no member says that it does", f.Leader)
	case len(f.Leaders) > 1:
		return fmt.Sprintf("%d members say that they lead: %s", len(f.Leaders), strings.Join(f.Leaders, ", "))
	case f.Leaders[0] != f.Leader:
		return fmt.Sprintf("%s should lead, but %s says that it does", f.Leader, f.Leaders[0])
	default:
		return ""
	}
}

// clusterHolds returns what else must not be disturbed.
func (f *Facts) clusterHolds() (holds []string) {
	add := func(format string, args ...any) { holds = append(holds, fmt.Sprintf(format, args...)) }
	if hold, _ := checkVersion(f.Operator, f.Version); hold != "" {
		add("%s", hold)
	}
	if f.inMaintenance() {
		add("Patroni is in maintenance mode (pause)")
	}
	if f.Pending != "" {
		add("%s has been requested", f.Pending)
	}
	if f.Standby {
		add("the cluster should follow another one, but its leader does not say so")
	}
	for _, m := range f.Members {
		if m.CriticalOperation {
			add("Zalando's operator has a critical operation on %s", m.Name)
		}
	}
	if leader := f.LeaderMember(); leader != nil {
		if leader.BaseBackups > 0 {
			add("a base backup is being taken from the leader %s", f.Leader)
		}
		if !leader.ArchiveFailed.IsZero() {
			add("the leader %s has failed to archive its log since %s", f.Leader, leader.ArchiveFailed.UTC().Format(time.RFC3339))
		}
	}
	if f.isUnattachable() {
		add("%s could not start again: %s", f.Leader, f.Unattachable)
	}
	if why := f.whyOnlyCopy(f.Leader); why != "" {
		add("%s", why)
	}
	return append(holds, f.Holds...)
}

// warnings returns what a move will cause, though it is safe.
func (f *Facts) warnings() (warnings []string) {
	add := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if _, warning := checkVersion(f.Operator, f.Version); warning != "" {
		add("%s", warning)
	}
	if f.Unattachable != "" && !f.isUnattachable() {
		add("%s could not start again if its node left: %s", f.Leader, f.Unattachable)
	}
	if others := f.otherClients(); len(others) > 0 {
		add("the leader stops slowly, up to a minute, if a client of logical replication is behind: %s", strings.Join(others, ", "))
	}
	switch { // without the old primary, one fewer streams
	case len(f.Members) == 2:
		after := "until the old primary streams again, there is no standby"
		if f.Strict {
			after += ", and the cluster takes no writes"
		}
		add("the cluster has two members: %s", after)
	case f.Synchronous && f.Strict && len(f.Members)-2 < f.SyncNumber:
		add("until the old primary streams again, the cluster takes no writes: they wait for %d standbys", f.SyncNumber)
	}
	return warnings
}

// otherClients returns the leader's WAL senders that send to no member.
func (f *Facts) otherClients() (names []string) {
	for _, sender := range f.LeaderMember().Senders {
		if f.Member(sender.Name) == nil && !slices.Contains(names, sender.Name) {
			names = append(names, cmp.Or(sender.Name, "one without a name"))
		}
	}
	return names
}

// lagLimit returns how far a candidate may be behind.
func (f *Facts) lagLimit(s Settings) LSN {
	limit := LSN(s.MaxLag)
	if f.MaxLag > 0 {
		limit = min(limit, f.MaxLag)
	}
	return limit
}

// AssessReplica returns why a replica must not be evicted now, as sentences without a period. During a switchover no member stops. The
// last synchronous standby of a strict cluster stays, because without it writes stop.
// Without a leader that answers and can be believed, the replica may be about to lead, or have the only copy.
func AssessReplica(f Facts, name string, now time.Time) (holds []string) {
	leader := f.LeaderMember()
	switch {
	case leader == nil:
		holds = append(holds, fmt.Sprintf("the leader %s is not among the cluster's pods", f.Leader))
	case leader.Terminating:
		holds = append(holds, fmt.Sprintf("the leader %s is stopping already", f.Leader))
	case f.staleLeader(now) != "":
		holds = append(holds, f.staleLeader(now))
	case !f.isUp(*leader):
		holds = append(holds, fmt.Sprintf("the leader %s does not answer%s", f.Leader, because(leader.Failure)))
	}
	if why := f.whyOnlyCopy(name); why != "" {
		holds = append(holds, why)
	}
	if f.Pending != "" {
		holds = append(holds, fmt.Sprintf("the cluster is moving: %s has been requested", f.Pending))
	}
	if f.Synchronous && f.Strict && f.isLastStandby(name) {
		last, without := "the last synchronous standby", "one"
		if f.SyncNumber > 1 {
			last, without = fmt.Sprintf("one of the last %d synchronous standbys", f.SyncNumber), "them"
		}
		holds = append(holds, fmt.Sprintf("%s is %s, and without %s the cluster takes no writes", name, last, without))
	}
	return holds
}

// isLastStandby reports whether the other members are too few to take the place of this synchronous standby. Where standbys are not known,
// every replica may be the last one. Patroni waits for fewer when there are fewer, down to one
// (https://patroni.readthedocs.io/en/latest/replication_modes.html#synchronous-mode).
func (f *Facts) isLastStandby(name string) bool {
	leader := f.LeaderMember()
	if leader == nil || leader.Name == name {
		return false
	}
	candidates := chooser{Facts: *f, leader: *leader}
	others := 0
	for _, m := range f.Members {
		if m.Name != name && m.Name != f.Leader && m.Ready && !m.Terminating && candidates.isStreaming(m) {
			others++
		}
	}
	return others < max(f.SyncNumber, 1)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// rounded returns a duration for people.
func rounded(d time.Duration) time.Duration {
	if d < time.Minute {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// Size returns a number of bytes for people, such as 1.5 MiB.
func (l LSN) Size() string {
	const unit = 1 << 10
	if l < unit {
		return fmt.Sprintf("%d bytes", uint64(l))
	}
	value, units := float64(l)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; value >= unit && i < len(units)-1; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
