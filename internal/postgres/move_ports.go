package postgres

import (
	"cmp"
	"context"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Cluster is the Kubernetes cluster as a move needs it. kube.Client implements it.
type Cluster interface {
	Kubernetes
	escort.Inspector
	// PodsMatching returns the pods of a namespace that match chooses.
	PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error)
	// Services returns the Services of a namespace, with their ready endpoints.
	Services(ctx context.Context, namespace string) ([]escort.Service, error)
	// AcquireMarkedLease acquires a Lease that may keep a mark, and renews it until it is released; nil: another holds it. Without a mark it is
	// the same as that of escort.TurnTaker.
	AcquireMarkedLease(ctx context.Context, name string) (escort.MarkedLease, error)
	// Marks returns the marks of the Leases whose names begin with the prefix.
	Marks(ctx context.Context, prefix string) ([]escort.Mark, error)
	// RequestSwitchover writes a request and returns the object's new resourceVersion. It fails if the object has changed since it was
	// read.
	RequestSwitchover(ctx context.Context, f escort.Failover) (version string, err error)
	// RecordPodEvent creates a Kubernetes event about a pod. That the event is there already is no error.
	RecordPodEvent(ctx context.Context, e drain.PodEvent) error
	// WithdrawSwitchover removes the request of f, if the object still has the resourceVersion.
	WithdrawSwitchover(ctx context.Context, f escort.Failover, version string) error
	// RequestPrimary asks CloudNativePG for another primary, and returns the Cluster's new resourceVersion. It fails with escort.ErrConflict
	// if the Cluster has changed since it was read.
	RequestPrimary(ctx context.Context, p escort.NewPrimary) (version string, err error)
}

// PoolerConsoles opens consoles of poolers. Consoles implements it.
type PoolerConsoles interface {
	Open(ctx context.Context, p escort.Pod) (Console, error)
	// ProveWrite writes through a database of the pooler as its clients do.
	ProveWrite(ctx context.Context, p escort.Pod, database string) error
	// ReadText returns the only value of a query's only row, which it reads through a database of the pooler.
	ReadText(ctx context.Context, p escort.Pod, database, query string) (string, error)
}

// Console is the console of one pooler.
type Console interface {
	// Look reads what a move must know before it pauses anything. It sends nothing but SHOW.
	Look(ctx context.Context) (PoolerState, error)
	// CheckCommands fails if the login may only look: that must be known before anything is paused. Nothing changes.
	CheckCommands(ctx context.Context) error
	// Oldest returns for how long the oldest open transaction of a database has been quiet; zero: none is open.
	Oldest(ctx context.Context, database string) (time.Duration, error)
	// SetLoginRetry changes for how many seconds clients wait after pgbouncer could not connect to a server.
	SetLoginRetry(ctx context.Context, seconds string) error
	// Pause lets no transaction of the database begin, and returns when none is open. The pause stays in force even if Pause fails.
	Pause(ctx context.Context, database string) error
	// Resume ends the pause, if there is one.
	Resume(ctx context.Context, database string) error
	// Unread reports whether a pause may still begin: its resumption failed, or it was sent through a tunnel and not read.
	Unread() bool
	// Reconnect closes each connection to the database when its client releases it.
	Reconnect(ctx context.Context, database string) error
	Close()
}

// PoolerState is what a console says of its pooler.
type PoolerState struct {
	Databases  []PoolerDatabase
	LoginRetry string        // as SetLoginRetry takes it
	QueryWait  time.Duration // how long a client waits until its query is refused; zero: forever
	QueryTime  time.Duration // how long a query may take, its wait included, until its client is disconnected; zero: forever
	AuthQuery  bool          // it asks its databases for the passwords of users that its own file lacks
	Shared     bool          // several processes may share its port: a RESUME may reach another one than its PAUSE
}

// PoolerDatabase is an entry of a pooler's configuration.
type PoolerDatabase struct {
	Name, Host string
	Paused     bool // by name
	InUse      bool // clients are connected to it
	Sessions   bool // clients hold their connections in session mode: a pause would wait until they disconnect
	Streams    bool // a client receives the write-ahead log: a pause would wait until it disconnects
}

// Asker asks a leader over HTTP.
type Asker interface {
	// Switchover asks the leader to switch over to the candidate. It returns when the leader has answered, which is after the switchover.
	// A Refusal says that nothing happened.
	Switchover(ctx context.Context, leader Member, candidate string) error
}

// Refusal is the error of a switchover that was refused, so that nothing changed.
type Refusal struct{ Reason string }

// Error returns the reason.
func (r *Refusal) Error() string { return "refused: " + r.Reason }

// refOrder orders pods by name, so that every run takes and reports them in the same order.
func refOrder(a, b drain.Ref) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
