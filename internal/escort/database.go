package escort

import (
	"errors"
	"time"
)

// PatroniStatus is the annotation that Patroni writes on the pod of each member, in JSON.
const PatroniStatus = "status"

// ErrForbidden says that a permission is missing.
var ErrForbidden = errors.New("permission missing")

// Annotated is the part of an object in whose annotations a program keeps its state, as Patroni does.
type Annotated struct {
	Namespace, Name, UID string
	ResourceVersion      string
	Labels, Annotations  map[string]string
}

// NodeFate is what is known of a node's future.
type NodeFate struct {
	Zone    string
	Created time.Time
	Leaving string // why it does not stay, in words; empty: it stays
}
