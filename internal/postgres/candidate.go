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

// judge decides about candidates.
type judge struct {
	Facts
	leader  Member
	limit   LSN
	leaving func(Member) string
}

// choose returns the best candidate; nil: there is none.
func (j judge) choose() *Member {
	var fit []Member
	for _, m := range j.Members {
		if m.Name != j.Leader && j.whyNot(m) == "" {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	best := slices.MinFunc(fit, j.compare)
	return &best
}

// compare prefers a synchronous standby, then the one that is closest, then the one whose node is the newest. Instance refreshes, maximum
// lifetimes and the default termination policy take the oldest instances first
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html), and each move interrupts.
func (j judge) compare(a, b Member) int {
	return cmp.Or(
		cmp.Compare(rank(j.isSync(a)), rank(j.isSync(b))),
		cmp.Compare(j.lag(a)/negligibleLag, j.lag(b)/negligibleLag),
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

func (j judge) lag(m Member) LSN { return m.LSN.Behind(j.LeaderLSN) }

// whyNot returns why a member cannot become leader; empty: it can.
func (j judge) whyNot(m Member) string {
	switch leaving := j.leaving(m); {
	case m.Terminating:
		return "it is stopping"
	case leaving != "":
		return "its node does not stay: " + leaving
	case m.Node == j.leader.Node:
		return "it is on the leader's node"
	case !m.Ready:
		return "its pod is not ready"
	case !m.Live:
		return "it does not say its position in the log" + because(m.Failure)
	case m.Role != Replica:
		return fmt.Sprintf("its role is %s, not replica", cmp.Or(m.Role, "unknown"))
	case m.NoFailover:
		return "it has the tag nofailover"
	case !j.isStreaming(m):
		return fmt.Sprintf("it does not stream: its state is %s", cmp.Or(m.State, "unknown"))
	}
	return j.whyBehind(m)
}

// whyBehind returns why a member's data are not good enough.
func (j judge) whyBehind(m Member) string {
	// CloudNativePG's replicas may show the timeline before.
	comparable := j.Operator.UsesPatroni()
	switch missing := j.missingSlots(m); {
	case comparable && m.Timeline != j.leader.Timeline:
		return fmt.Sprintf("it is on timeline %d, and the leader on %d", m.Timeline, j.leader.Timeline)
	case m.LSN == 0:
		return "its position in the log is not known"
	case j.lag(m) > j.limit:
		return fmt.Sprintf("it is %s behind, and the limit is %s", j.lag(m).Size(), j.limit.Size())
	case j.Synchronous && !j.isSync(m):
		return "it is not a synchronous standby"
	case missing != "":
		return "it lacks the logical replication slot " + missing
	default:
		return ""
	}
}

// isStreaming reports whether the replica streams, as it says itself. Where Patroni does not say so, the leader does, by the name under
// which the replica connects: the member's.
func (j judge) isStreaming(m Member) bool {
	if m.State == streaming {
		return true
	}
	return j.Operator.UsesPatroni() && m.State == "running" && slices.ContainsFunc(j.leader.Senders, func(s Sender) bool {
		return s.Name == m.Name && s.State == streaming
	})
}

// isSync reports whether the member is a synchronous standby: by Patroni's key in synchronous mode, else by the leader's senders.
func (j judge) isSync(m Member) bool {
	if j.Synchronous && j.Operator.UsesPatroni() {
		return slices.Contains(j.SyncStandbys, m.Name)
	}
	return slices.ContainsFunc(j.leader.Senders, func(s Sender) bool { return s.Name == m.Name && s.Sync })
}

// missingSlots returns a logical replication slot of the leader that the member lacks.
func (j judge) missingSlots(m Member) string {
	for _, slot := range j.leader.LogicalSlots {
		if !slices.Contains(slices.Concat(m.LogicalSlots, j.leader.SyncedSlots, j.PermanentSlots), slot) {
			return slot
		}
	}
	return ""
}

// noCandidate says why no member can become leader, member by member.
func (j judge) noCandidate() string {
	var reasons []string
	for _, m := range j.Members {
		if m.Name != j.Leader {
			reasons = append(reasons, m.Name+": "+j.whyNot(m))
		}
	}
	if len(reasons) == 0 {
		return "no other member exists"
	}
	const longest = 600 // of a report's reason, which names other holds too
	return drain.Cut("no member can become leader: "+strings.Join(reasons, "; "), longest)
}
