package escort

import (
	"context"
	"errors"
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

// MaxRecord bounds what an escort writes about its work, in bytes: the mark of a Lease, and the record of a pod. It has room for a hundred
// poolers with usual names. All records of one node share the 256 KB that the API server allows a Lease.
const MaxRecord = 32 << 10

// ErrTaken says that another process holds a Lease now.
var ErrTaken = errors.New("somebody else has taken it")

// MarkedLease is a Lease whose mark survives its holder. The mark says what the holder changed that outlives it.
type MarkedLease interface {
	// Mark returns the mark; empty: none. Before the first SetMark it is an earlier holder's.
	Mark() string
	// SetMark replaces the mark; an empty text removes it.
	SetMark(ctx context.Context, text string) error
	// Lost returns why the Lease cannot be relied on any more, as far as is known: it was taken or deleted, or it could not be
	// renewed in time; nil: it is held. It sends no request.
	Lost() error
	// Release frees the Lease, on a context of its own. One with a mark stays, without a holder.
	Release() error
}

// Mark is the mark of a Lease, as a process sees it that does not hold the Lease.
type Mark struct {
	Lease string
	Text  string
	Held  bool      // by a process that still renews it
	Taken time.Time // when its holder took it; zero: it is not held
}
