package escort

import (
	"errors"
	"time"
)

// ErrConflict says that an object has changed since it was read.
var ErrConflict = errors.New("it has changed since it was read")

// CloudNativePGVersion is the annotation that CloudNativePG's operator writes on everything it makes: its own version.
const CloudNativePGVersion = "cnpg.io/operatorVersion"

// NewPrimary is a request to CloudNativePG for another primary, as `kubectl cnpg promote` writes it into the status of a Cluster
// (https://cloudnative-pg.io/documentation/current/kubectl-plugin/#promote). It cannot be withdrawn.
type NewPrimary struct {
	Namespace, Cluster string
	Version            string // the Cluster's resourceVersion when it was read
	Candidate          string // the instance that is to be the primary
	At                 time.Time
}
