package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quiesce/internal/drain"
)

// negligibleLag is what a replica makes up for in no time that a client notices. Candidates within it count as equally close.
const negligibleLag LSN = 1 << 20

// chooser chooses the candidate.
type chooser struct {
	Facts
	leader  Member
	limit   LSN
	leaving func(Member) string
}

// choose returns the best candidate; nil: there is none.
func (c chooser) choose() *Member {
	var fit []Member
	for _, m := range c.Members {
		if m.Name != c.Leader && c.whyNot(m) == "" {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	best := slices.MinFunc(fit, c.compare)
	return &best
}

// compare prefers a synchronous standby, then the one that is closest, then the one whose node is the newest. Instance refreshes, maximum
// lifetimes and the default termination policy take the oldest instances first
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html), and each move interrupts.
func (c chooser) compare(a, b Member) int {
	return cmp.Or(
		cmp.Compare(rank(c.isSync(a)), rank(c.isSync(b))),
		cmp.Compare(c.lag(a)/negligibleLag, c.lag(b)/negligibleLag),
		b.NodeCreated.Compare(a.NodeCreated),
		cmp.Compare(a.Name, b.Name),
	)
}

func rank(preferred bool) int {
	if preferred {
		return 0
	}
	return 1
}

func (c chooser) lag(m Member) LSN { return m.LSN.Behind(c.LeaderLSN) }

// whyNot returns why a member cannot become leader; empty: it can.
func (c chooser) whyNot(m Member) string {
	switch leaving := c.leaving(m); {
	case m.Terminating:
		return "it is stopping"
	case leaving != "":
		return "its node does not stay: " + leaving
	case m.Node == c.leader.Node:
		return "it is on the leader's node"
	case !m.Ready:
		return "its pod is not ready"
	case !m.Live:
		return "it does not say its position in the log" + because(m.Failure)
	case m.Role != Replica:
		return fmt.Sprintf("its role is %s, not replica", cmp.Or(m.Role, "unknown"))
	case m.NoFailover:
		return "it has the tag nofailover"
	case !c.isStreaming(m):
		return fmt.Sprintf("it does not stream: its state is %s", cmp.Or(m.State, "unknown"))
	}
	return c.whyBehind(m)
}

// whyBehind returns why a member's data are not good enough.
func (c chooser) whyBehind(m Member) string {
	// CloudNativePG's replicas may show the timeline before.
	comparable := c.Operator.UsesPatroni()
	switch missing := c.missingSlots(m); {
	case comparable && m.Timeline != c.leader.Timeline:
		return fmt.Sprintf("it is on timeline %d, and the leader on %d", m.Timeline, c.leader.Timeline)
	case m.LSN == 0:
		return "its position in the log is not known"
	case c.lag(m) > c.limit:
		return fmt.Sprintf("it is %s behind, and the limit is %s", c.lag(m).Size(), c.limit.Size())
	case c.Synchronous && !c.isSync(m):
		return "it is not a synchronous standby"
	case missing != "":
		return "it lacks the logical replication slot " + missing
	default:
		return ""
	}
}

// isStreaming reports whether the replica streams, as it says itself. Where Patroni does not say so, the leader does, by the name under
// which the replica connects: the member's.
func (c chooser) isStreaming(m Member) bool {
	if m.State == streaming {
		return true
	}
	return c.Operator.UsesPatroni() && m.State == "running" && slices.ContainsFunc(c.leader.Senders, func(s Sender) bool {
		return s.Name == m.Name && s.State == streaming
	})
}

// isSync reports whether the member is a synchronous standby: by Patroni's key in synchronous mode, else by the leader's senders.
func (c chooser) isSync(m Member) bool {
	if c.Synchronous && c.Operator.UsesPatroni() {
		return slices.Contains(c.SyncStandbys, m.Name)
	}
	return slices.ContainsFunc(c.leader.Senders, func(s Sender) bool { return s.Name == m.Name && s.Sync })
}

// missingSlots returns a logical replication slot of the leader that the member lacks.
func (c chooser) missingSlots(m Member) string {
	for _, slot := range c.leader.LogicalSlots {
		if !slices.Contains(slices.Concat(m.LogicalSlots, c.leader.SyncedSlots, c.PermanentSlots), slot) {
			return slot
		}
	}
	return ""
}

// noCandidate says why no member can become leader, member by member.
func (c chooser) noCandidate() string {
	var reasons []string
	for _, m := range c.Members {
		if m.Name != c.Leader {
			reasons = append(reasons, m.Name+": "+c.whyNot(m))
		}
	}
	if len(reasons) == 0 {
		return "no other member exists"
	}
	const longest = 600 // of a report's reason, which names other holds too
	return drain.Cut("no member can become leader: "+strings.Join(reasons, "; "), longest)
}
