package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// LeasePrefix begins the names of the Leases of clusters that move. Their marks say what is paused.
const LeasePrefix = "quiesce-postgres-"

// mark is what a move changes that outlives it: poolers that may be paused, and the request. It is on the cluster's Lease before the first
// PAUSE, and in the drain's record.
type mark struct {
	Namespace string         `json:"namespace"`
	Cluster   string         `json:"cluster"`
	Since     time.Time      `json:"since"`
	Until     time.Time      `json:"until"` // when poolers are resumed at the latest, for people who read the Lease
	Leader    string         `json:"leader"`
	Candidate string         `json:"candidate"`
	Kind      string         `json:"kind,omitempty"`     // of the object that may have the request; empty: none
	Object    string         `json:"object,omitempty"`   // its name
	Poolers   []markedPooler `json:"poolers,omitempty"`  // that may be paused
	Moved     bool           `json:"moved,omitempty"`    // the leader has changed, or will
	OnlyCopy  bool           `json:"onlyCopy,omitempty"` // the pod's data may exist on its node only
	Resumed   bool           `json:"resumed,omitempty"`  // its poolers are resumed, and are resumed once more until Again
	Again     time.Time      `json:"again,omitzero"`     // until when a command of an interrupted move may still come
	Late      []markedPooler `json:"late,omitempty"`     // poolers of an interrupted move before this one, beside those of its own
}

type markedPooler struct {
	drain.Ref
	Databases []string `json:"databases"`
	Retry     string   `json:"retry,omitempty"` // the former server_login_retry; empty: it is as it was
}

// lateTime is how long after its mark a move that did not end in order may still change a pooler. Its process may have stood still, so only
// the end of its invocation is certain: 15 minutes after its begin (https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html).
// A minute more is for clocks that differ, and for what the network still has. Until then each sweep opens the consoles of these poolers.
const lateTime = 16 * time.Minute

func (m mark) text() string {
	text, _ := json.Marshal(m) // of texts and times
	return string(text)
}

var errMark = errors.New("the mark of a move cannot be read")

// readMark reads a mark. It names pods and databases, so it is only believed as far as it could be ours.
func readMark(text string) (*mark, error) {
	m := &mark{}
	if len(text) > escort.MaxRecord || json.Unmarshal([]byte(text), m) != nil || len(m.Poolers)+len(m.Late) > maxPoolers {
		return nil, errMark
	}
	for _, p := range slices.Concat(m.Poolers, m.Late) {
		if len(p.Databases) > maxDatabases || p.Namespace == "" || p.Name == "" || p.UID == "" {
			return nil, errMark
		}
	}
	return m, nil
}

func isReadable(text string) bool {
	_, err := readMark(text)
	return err == nil
}

// IsResumed reports whether all that a mark names is resumed. Such a mark stays for a command that comes late.
func IsResumed(text string) bool {
	m, err := readMark(text)
	return err == nil && m.Resumed
}

// sameMove reports whether two marks are of one move.
func (m mark) sameMove(other *mark) bool {
	return other != nil && m.Namespace == other.Namespace && m.Cluster == other.Cluster && m.Since.Equal(other.Since)
}

// interrupt makes the mark one of a move that did not end in order: whether it is over is not known.
func (m *mark) interrupt() {
	if until := m.Since.Add(lateTime); until.After(m.Again) {
		m.Again = until
	}
	m.join()
}

// join makes the poolers of earlier moves the mark's own.
func (m *mark) join() { m.Poolers, m.Late = slices.Concat(m.Poolers, m.Late), nil }

// carry adds the poolers of an interrupted move. Its last commands may come while this move is under way, or after it.
func (m *mark) carry(interrupted *mark) {
	if interrupted == nil {
		return
	}
	m.Again = interrupted.Again
	for _, p := range interrupted.Poolers {
		i := slices.IndexFunc(m.Poolers, func(own markedPooler) bool { return own.Ref == p.Ref })
		if i < 0 {
			m.Late = append(m.Late, p)
			continue
		}
		own := &m.Poolers[i]
		own.Databases = append(own.Databases, slices.DeleteFunc(slices.Clone(p.Databases), func(database string) bool {
			return slices.Contains(own.Databases, database)
		})...)
		if own.Retry == loginRetry && p.Retry != "" { // what was read is what the interrupted move has set
			own.Retry = p.Retry
		}
	}
}

// failover returns the request that the mark names; without a kind, there is none.
func (m *mark) failover() escort.Failover {
	return escort.Failover{Kind: m.Kind, Namespace: m.Namespace, Name: m.Object, Leader: m.Leader, Candidate: m.Candidate}
}

// rest returns the mark of what is left to do when all but these poolers are resumed; empty: nothing is. A pooler that was resumed once, and
// does not answer any more, is asked again, but counts as resumed: it must not hold its cluster.
func (m mark) rest(stillPaused []markedPooler) string {
	if m.Resumed = m.Resumed || len(stillPaused) == 0; m.Resumed {
		m.Kind = "" // the request was withdrawn too, if it could be
	}
	if !time.Now().Before(m.Again) {
		m.Poolers = stillPaused
	}
	if len(m.Poolers) == 0 {
		return ""
	}
	return m.text()
}

// clusterLease returns the name of the cluster's Lease.
func clusterLease(i Identity) string { return escort.GroupLease("postgres", i.Namespace, i.Cluster) }

// markOf returns the mark of a move of these poolers.
func markOf(f Facts, candidate string, fronts []*front, now time.Time, limit time.Duration) mark {
	m := mark{
		Namespace: f.Namespace, Cluster: f.Cluster, Since: now.UTC(), Until: now.Add(limit).UTC(), Leader: f.Leader, Candidate: candidate,
	}
	if f.Mode != "" && candidate != "" {
		m.Kind, m.Object = string(f.Mode), f.FailoverObject()
	}
	for _, p := range fronts {
		if p.unheld == "" {
			m.Poolers = append(m.Poolers, markedPooler{p.pod.Ref, slices.Clone(p.databases), p.retry})
		}
	}
	return m
}

// readMarks returns the marks of a Lease, even if ctx has ended: who cannot see another's move must not resume its poolers.
func readMarks(ctx context.Context, cluster Cluster, lease string, limit time.Duration) (marks []escort.Mark, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_ = escort.Poll(ctx, time.Now().Add(limit), resumeInterval, func() (bool, error) {
		marks, err = cluster.Marks(ctx, lease)
		return err == nil, nil
	})
	return marks, err
}

// isHeldSince reports whether the holder of the Lease is not the one that has set the mark.
func isHeldSince(m mark, marks []escort.Mark) bool {
	return slices.ContainsFunc(marks, func(found escort.Mark) bool { return found.Held && found.Taken.After(m.Since) })
}

// markOfMove returns the one of the marks that is of the record's move; nil: none is.
func markOfMove(record mark, marks []escort.Mark) *mark {
	for _, found := range marks {
		if m, err := readMark(found.Text); err == nil && record.sameMove(m) {
			return m
		}
	}
	return nil
}
