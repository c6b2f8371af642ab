package postgres

import (
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
	Until     time.Time      `json:"until"` // when clients are let go at the latest
	Leader    string         `json:"leader"`
	Candidate string         `json:"candidate"`
	Kind      string         `json:"kind,omitempty"`     // of the object that may have the request; empty: none
	Object    string         `json:"object,omitempty"`   // its name
	Poolers   []markedPooler `json:"poolers,omitempty"`  // that may be paused
	Moved     bool           `json:"moved,omitempty"`    // the leader has changed, or will
	OnlyCopy  bool           `json:"onlyCopy,omitempty"` // the pod's data may exist on its node only
}

type markedPooler struct {
	drain.Ref
	Databases []string `json:"databases"`
	Retry     string   `json:"retry,omitempty"` // the former server_login_retry; empty: it is as it was
}

func (m mark) text() string {
	text, _ := json.Marshal(m) // of texts and times
	return string(text)
}

var errMark = errors.New("the mark of a move cannot be read")

// readMark reads a mark. It names pods and databases, so it is only believed as far as it could be ours.
func readMark(text string) (*mark, error) {
	m := &mark{}
	if len(text) > escort.MaxRecord || json.Unmarshal([]byte(text), m) != nil || len(m.Poolers) > maxPoolers {
		return nil, errMark
	}
	for _, p := range m.Poolers {
		if len(p.Databases) > maxDatabases || p.Namespace == "" || p.Name == "" || p.UID == "" {
			return nil, errMark
		}
	}
	return m, nil
}

// sameMove reports whether two marks are of one move.
func (m mark) sameMove(other *mark) bool {
	return other != nil && m.Namespace == other.Namespace && m.Cluster == other.Cluster && m.Since.Equal(other.Since)
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
