package postgres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
)

// Kind is the escort's name, in escort.Annotation and in reports.
const Kind = "postgres"

// Settings are the settings of a phase's escort.
type Settings struct {
	config.Postgres
	PhaseTimeout time.Duration // how long the next phase waits for this one
}

// Operator is what runs a database cluster.
type Operator string

// The operators. All but CloudNativePG use Patroni.
const (
	Patroni       Operator = "patroni" // plain, without an operator
	Zalando       Operator = "zalando"
	StackGres     Operator = "stackgres"
	Crunchy       Operator = "crunchy"
	CloudNativePG Operator = "cloudnative-pg"
)

// UsesPatroni reports whether Patroni runs in the members.
func (o Operator) UsesPatroni() bool { return o != CloudNativePG && o != "" }

// Mode is the kind of objects in which Patroni keeps its state (https://patroni.readthedocs.io/en/latest/kubernetes.html): the plural name
// of the kind.
type Mode string

// The modes.
const (
	Endpoints  Mode = "endpoints"
	ConfigMaps Mode = "configmaps"
)

// Identity is the cluster that a pod is a member of, read from what the operator writes on the pod. Every field is a valid name.
type Identity struct {
	Operator  Operator
	Namespace string
	Cluster   string
	Scope     string            // the prefix of the names of Patroni's objects; empty: CloudNativePG
	Members   map[string]string // the labels that select the members
}

// String returns the cluster's namespace/name.
func (i Identity) String() string { return i.Namespace + "/" + i.Cluster }

// LeaderObject returns the name of the object that names the leader in a mode. This name and those below are Patroni's
// (https://github.com/patroni/patroni/blob/master/patroni/dcs/kubernetes.py).
func (i Identity) LeaderObject(mode Mode) string {
	if mode == ConfigMaps {
		return i.Scope + "-leader"
	}
	return i.Scope
}

// ConfigObject returns the name of the object that has the configuration.
func (i Identity) ConfigObject() string { return i.Scope + "-config" }

// SyncObject returns the name of the object that has the synchronous standbys.
func (i Identity) SyncObject() string { return i.Scope + "-sync" }

// FailoverObject returns the name of the object that has the request for a switchover.
func (i Identity) FailoverObject() string { return i.Scope + "-failover" }

// Facts are what is known of one cluster at one time. Zero values mean unknown.
type Facts struct {
	Identity
	Mode    Mode   // of Patroni's objects
	Version string // of Patroni, or of CloudNativePG

	Leader      string // the leader's name, which is its pod's
	LeaderSince time.Time
	RenewTime   time.Time // when the leader last renewed its key, by the leader's clock
	TTL         time.Duration
	LoopWait    time.Duration
	Leaders     []string // the members that say themselves that they lead
	Timeline    int
	LeaderLSN   LSN  // the position that Patroni's leader key has, at most LoopWait old; the leader's live one if LeaderLive
	LeaderLive  bool // LeaderLSN is live

	Members      []Member
	Others       int // pods with the members' labels that are not recognized: of a member that has not started yet
	Synchronous  bool
	Strict       bool     // writes stop without a synchronous standby
	SyncNumber   int      // for how many standbys writes wait in strict mode; zero: one
	SyncStandbys []string // in synchronous mode
	MaxLag       LSN      // Patroni's maximum_lag_on_failover; zero: unknown
	Paused       bool     // Patroni's maintenance mode
	Standby      bool     // a standby cluster, or a replica cluster: its leader follows another cluster
	Pending      string   // a switchover that was requested, in words; empty: none

	FailoverVersion string            // resourceVersion of FailoverObject; empty: it does not exist
	ObjectLabels    map[string]string // of ConfigObject: Patroni sees an object only with these
	Holds           []string          // further reasons to hold that the operator's objects give, as sentences
	Warnings        []string          // as sentences without a period
	Unattachable    string            // why the leader's volumes find no other node that stays; empty: they do, or it is not known
	PermanentSlots  []string          // logical replication slots that Patroni keeps on each member that may become leader
	WorkUnknown     string            // why the leader's Work is not known
}

// LeaderMember returns the leader; nil: no pod has its name.
func (f *Facts) LeaderMember() *Member { return f.Member(f.Leader) }

// Member returns the member of this name; nil: there is none.
func (f *Facts) Member(name string) *Member {
	for i := range f.Members {
		if f.Members[i].Name == name {
			return &f.Members[i]
		}
	}
	return nil
}

// Member is one member of a cluster. Its name is its pod's.
type Member struct {
	drain.Ref
	Node        string
	Zone        string // of its node
	NodeCreated time.Time
	IP          string
	Ready       bool
	Terminating bool
	Leaving     string // why its node does not stay, in words; empty: it stays

	LiveState
	API     Address // of its HTTP interface
	Failure string  // why the member itself did not answer; empty: it did, or was not asked

	Claims            []string // names of its PersistentVolumeClaims
	NodeVolume        string   // the volume on its node that its data directory is in; empty: none is known
	Disk              string   // why its data may exist on its node only; empty: its volumes follow it, another has its data, or it was not looked at
	CriticalOperation bool     // Zalando's operator says that nothing may disturb the pod
}

// LiveState is what a member says of itself. Without Live it is as old as what the member wrote last on its pod.
type LiveState struct {
	Live       bool   // the member itself answered
	Role       Role   // empty: unknown
	State      string // of PostgreSQL: running; streaming where a replica streams
	Version    string // of Patroni
	Timeline   int
	LSN        LSN  // written, on the leader; received, on a replica; zero: unknown
	NoFailover bool // it must not become leader
	Paused     bool // Patroni's maintenance mode
	Unlocked   bool // no member has Patroni's leader key
	Work            // what CloudNativePG's members say, and a primary of Patroni over SQL

	Senders []Sender // the leader's WAL senders
}

// Work is what goes on in a member's database that a move would disturb.
type Work struct {
	Known         bool
	BaseBackups   int       // that are being taken from the member
	LogicalSlots  []string  // names of logical replication slots
	SyncedSlots   []string  // those of them that PostgreSQL itself is to copy to standbys
	ArchiveFailed time.Time // when archiving the log failed, if it has not succeeded since
}

// Sender is one WAL sender of a leader.
type Sender struct {
	Name  string // application_name: a member's name, or that of another client
	State string // streaming
	Sync  bool
}

// Role is what a member is.
type Role string

// The roles.
const (
	Primary       Role = "primary" // Patroni before 4.0 says master
	StandbyLeader Role = "standby_leader"
	Replica       Role = "replica"
	Uninitialized Role = "uninitialized"
)

// Leads reports whether a member of this role leads its cluster.
func (r Role) Leads() bool { return r == Primary || r == StandbyLeader }

// Address is where a member's HTTP interface listens.
type Address struct {
	TLS  bool
	Port int // zero: unknown
}

// Assessment is what may be done with a primary. With any hold there is no candidate, and nothing moves.
type Assessment struct {
	Candidate *Member
	Plain     string   // why the primary needs no move, and is evicted like any other pod; empty: it needs one
	Holds     []string // why nothing moves now, as sentences without a period
	Warnings  []string // as sentences without a period
}

// LSN is a position in the write-ahead log, in bytes (https://www.postgresql.org/docs/current/datatype-pg-lsn.html).
type LSN uint64

var errLSN = errors.New("not a position in the write-ahead log")

// ParseLSN reads the form of PostgreSQL: 0/3000148.
func ParseLSN(text string) (LSN, error) {
	high, low, ok := strings.Cut(text, "/")
	h, err := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err != nil || err2 != nil {
		return 0, fmt.Errorf("%w: %q", errLSN, drain.Short(text))
	}
	return LSN(h<<32 | l), nil
}

// String returns the form of PostgreSQL.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

// Behind returns how many bytes l is behind other; zero if it is not.
func (l LSN) Behind(other LSN) LSN {
	if l >= other {
		return 0
	}
	return other - l
}
