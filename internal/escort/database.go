package escort

import (
	"errors"
	"time"
)

// Labels and annotations of operators, on the pods and objects that they make.
const (
	// PatroniStatus is the annotation that Patroni writes on the pod of each member, in JSON.
	PatroniStatus = "status"
	// CloudNativePGVersion is the annotation with the version of CloudNativePG's operator.
	CloudNativePGVersion = "cnpg.io/operatorVersion"
	// CloudNativePGCluster is the label with the name of CloudNativePG's Cluster.
	CloudNativePGCluster = "cnpg.io/cluster"
	// CloudNativePGPooler is the label with the name of CloudNativePG's Pooler, on poolers only.
	CloudNativePGPooler = "cnpg.io/poolerName"
	// CrunchyCluster is the label with the name of Crunchy's PostgresCluster. Percona's operator uses it as well.
	CrunchyCluster = "postgres-operator.crunchydata.com/cluster"
)

var (
	// ErrForbidden says that a permission is missing.
	ErrForbidden = errors.New("permission missing")
	// ErrConflict says that an object has changed since it was read.
	ErrConflict = errors.New("it has changed since it was read")
)

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

// NewPrimary is a request to CloudNativePG for another primary, as `kubectl cnpg promote` writes it into the status of a Cluster
// (https://cloudnative-pg.io/documentation/current/kubectl-plugin/#promote). It cannot be withdrawn.
type NewPrimary struct {
	Namespace, Cluster string
	Version            string // the Cluster's resourceVersion when it was read
	Candidate          string // the instance that is to be the primary
	At                 time.Time
}

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
