package escort

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// MaxRecord bounds what an escort writes about its work, in bytes: the mark of a Lease, and the record of a pod. It has room for a hundred
// poolers with usual names. All records of one node share the 256 KB that the API server allows a Lease.
const MaxRecord = 32 << 10

// ErrTaken says that another process holds a Lease now.
var ErrTaken = errors.New("another process has taken it")

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

// groupHashLength is the length of the hash in a group's name, in hex digits: 128 bits, so that no two names are equal.
const groupHashLength = 32

// PoolerLease returns the name of the Lease with which the poolers of one owner take turns. The escorts of poolers and of primaries take it,
// and whoever reloads a pooler. A pod whose owner Kubernetes cannot have is alone in its group.
func PoolerLease(p Pod) string {
	owner := p.UID
	if p.Owner.Valid() {
		owner = p.Owner.UID
	}
	return GroupLease("pooler", p.Namespace, owner)
}

// GroupLease returns the name of the Lease with which pods of one owner take turns: quiesce-pooler-<namespace>-<hash> for the kind
// pooler. The author of a pod chooses the owner's UID, and the API server accepts any text for it. So the UID is hashed, together with
// the namespace: the name is always valid, is never an instance's, and is never that of a group in another namespace. The namespace is
// in the name for people, if it is one.
func GroupLease(kind, namespace, owner string) string {
	hash := sha256.Sum256([]byte(namespace + "/" + owner)) // a namespace has no slash
	name := "quiesce-" + kind + "-"
	if isNamespace(namespace) {
		name += namespace + "-"
	}
	return name + hex.EncodeToString(hash[:])[:groupHashLength]
}
