package termination

import (
	"context"
	"iter"
	"time"

	"quiesce/internal/drain"
)

// Groups answers questions about Auto Scaling groups and their EC2 instances.
type Groups interface {
	// Instances returns the group's instances as last described. The description can lag.
	Instances(ctx context.Context, group string) ([]Instance, error)
	// GroupOf returns the group that an instance is in; empty: none.
	GroupOf(ctx context.Context, instanceID string) (string, error)
	// EC2Instances returns what EC2 knows of these instances, by instance ID. Instances that EC2 does not know are missing.
	EC2Instances(ctx context.Context, instanceIDs ...string) (map[string]EC2Instance, error)
	// List yields the groups of these names, or without names all groups of the account. An error stands for groups that could not
	// be described; more groups may follow it.
	List(ctx context.Context, names ...string) iter.Seq2[Group, error]
	// ActivityStarts returns when the group's running activities began, by instance ID. Instances that no activity names are missing.
	ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error)
}

// Hooks reads lifecycle hooks and acts on lifecycle actions.
type Hooks interface {
	// Describe returns the hook's settings; ErrNoHook: the group has no such hook.
	Describe(ctx context.Context, group, hook string) (Hook, error)
	// Heartbeat restarts the hook's timeout.
	Heartbeat(ctx context.Context, t Termination) error
	// Complete ends the lifecycle action. ErrNoActiveAction needs a second look.
	Complete(ctx context.Context, t Termination, result Result) error
}

// Queue is the queue that events come through.
type Queue interface {
	// Hide keeps a received message from being delivered again, for this long from now.
	Hide(ctx context.Context, receiptHandle string, d time.Duration) error
	// Send puts a message into the queue.
	Send(ctx context.Context, body string) error
	// Backlog returns how many messages wait to be delivered, and how many are in flight: delivered, and neither deleted nor visible
	// again. SQS approximates both.
	Backlog(ctx context.Context) (waiting, inFlight int, err error)
}

// DeadLetterQueue receives messages that can never be processed.
type DeadLetterQueue interface {
	// SendToDLQ sends the record, with the reason.
	SendToDLQ(ctx context.Context, record Record) error
}

// Metrics receives what dashboards and alarms show.
type Metrics interface {
	// Invocation counts what an invocation did about an event.
	Invocation(s Invocation)
	// Sweep counts what a sweep saw and did.
	Sweep(r SweepReport)
	// MalformedEvent counts an event that cannot be parsed.
	MalformedEvent()
}

// Archive stores reports.
type Archive interface {
	// Store adds one report. It never replaces another.
	Store(ctx context.Context, r Report) error
}

// Kubernetes is the cluster as a termination uses it.
type Kubernetes interface {
	// FindNode looks up the node of an instance, by name if EC2 has told one; nil: there is none.
	FindNode(ctx context.Context, instanceID, name, zone string) (*drain.Node, error)
	// NodeByName looks up the node of that name; nil: there is none.
	NodeByName(ctx context.Context, name string) (*drain.Node, error)
	// Cordon closes the node to new pods and to load balancers, and notes on it what was changed and for which termination. It
	// returns when the node was closed: now, or by an earlier invocation.
	Cordon(ctx context.Context, node drain.Node, hook string, began time.Time) (time.Time, error)
	// CordonedNodes returns the nodes that Cordon closed.
	CordonedNodes(ctx context.Context) ([]CordonedNode, error)
	// Restore undoes on a node what Cordon and TaintTerminating changed there, and only that. It changes no node without their note,
	// and no node that was closed for another hook or for none; for these, ours is false.
	Restore(ctx context.Context, node drain.Node, hook string) (ours bool, err error)
	// TaintTerminating keeps evicted pods off other nodes that are terminating too, without a cordon. The nodes are known by their
	// instances, and by name where EC2 has told one. Nodes that are not in the cluster are skipped.
	TaintTerminating(ctx context.Context, others []drain.Node) error
	// WatchPods returns the node's pods, listed once and watched until ctx ends.
	WatchPods(ctx context.Context, node drain.Node) (drain.Cluster, error)
	// AwaitDetached returns when the volumes of these claims (namespace/name) are detached from the node.
	AwaitDetached(ctx context.Context, node drain.Node, claims []string) error
	// PDBs returns the PodDisruptionBudgets that select any of these pods.
	PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error)
	// RecordEvent creates a Kubernetes event on the node.
	RecordEvent(ctx context.Context, node drain.Node, e NodeEvent) error
	// AcquireLease acquires the instance's Lease, and renews it until ctx ends or it is released; nil: another invocation holds it. A
	// deadline that is on the Lease is passed to shorten: at once, and again at each renewal.
	AcquireLease(ctx context.Context, instanceID string, shorten func(deadline time.Time)) (Lease, error)
	// ShortenDeadline leaves a deadline on the instance's Lease for the invocation that holds it.
	ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error
	// Leases returns all Leases: the ones of instances, which have the instance's ID for their name, and the ones of escorts.
	Leases(ctx context.Context) ([]LeaseInfo, error)
	// DeleteFreeLease deletes the Lease of an instance that is gone, unless an invocation holds it.
	DeleteFreeLease(ctx context.Context, instanceID string) error
}

// Lease is an instance's Lease, held by this invocation. It keeps the records of the drain.
type Lease interface {
	drain.Records
	// Release gives the Lease up. Keep says what of it stays for the next holder.
	Release(keep Keep) error
}

// LeaseInfo is a Lease as a sweep sees it.
type LeaseInfo struct {
	Name string
	Held bool // by an invocation that renews it
}

// Keep says which part of a Lease outlives its release.
type Keep int

// What can be kept. A Lease on which nothing is kept is deleted.
const (
	KeepNothing Keep = iota // no pod is left on which anything could be undone
	KeepRecords             // what escorts changed, and did not undo
	KeepAll                 // the same and the deadline: a later invocation continues the drain
)

// Group is an Auto Scaling group as last described.
type Group struct {
	Name      string
	Instances []Instance
}

// Instance is one instance of a group.
type Instance struct {
	ID    string
	Zone  string
	State string // Auto Scaling's lifecycle state
}

// EC2Instance is an instance as EC2 describes it.
type EC2Instance struct {
	PrivateDNS string // the name of most nodes; empty if the instance has none
	Terminated bool   // terminated or shutting down: nothing runs there that could be signaled
	Spot       bool   // EC2 may reclaim it
}

// CordonedNode is a node that Cordon closed, and for which termination.
type CordonedNode struct {
	Node       drain.Node
	Hook       string    // the hook that the instance waited on; empty: none
	CordonedAt time.Time // when the node was closed
}

// Hook is the settings of a lifecycle hook.
type Hook struct {
	HeartbeatTimeout time.Duration // after which the action ends without a heartbeat
	GlobalTimeout    time.Duration // after which the action ends, heartbeats or not; zero: unknown
}
