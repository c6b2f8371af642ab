package escort

import (
	"context"
	"time"
)

// Failover is a request for a switchover, as Patroni keeps it in an object of its own
// (https://patroni.readthedocs.io/en/latest/kubernetes.html).
type Failover struct {
	Kind              string // endpoints or configmaps
	Namespace, Name   string
	Labels            map[string]string // of the object, if it has to be created: Patroni sees it only with these
	Version           string            // the object's resourceVersion when it was read; empty: it did not exist
	Leader, Candidate string
	At                time.Time // before it Patroni does nothing, and long after it Patroni discards the request
}

// Service is a Service with what is behind it.
type Service struct {
	Namespace, Name string
	Addresses       []string // its cluster IPs; none: headless
	Ready           []string // addresses of its ready endpoints
}

// MarkedLease is a Lease whose mark survives its holder. The mark says what the holder changed that outlives it.
type MarkedLease interface {
	// Mark returns the mark; empty: none. Before the first SetMark it is an earlier holder's.
	Mark() string
	// SetMark replaces the mark; an empty text removes it.
	SetMark(ctx context.Context, text string) error
	// Release frees the Lease, on a context of its own. One with a mark stays, without a holder.
	Release() error
}

// Mark is the mark of a Lease, as somebody sees it who does not hold the Lease.
type Mark struct {
	Lease string
	Text  string
	Held  bool // by somebody who still renews it
}
