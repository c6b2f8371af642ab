package termination

import (
	"context"
	"iter"
	"time"

	"quiesce/internal/drain"
)

// Groups is what a termination needs to know of Auto Scaling and of EC2.
type Groups interface {
	// Instances are the group's instances as last described; the description can lag.
	Instances(ctx context.Context, group string) ([]Instance, error)
	// GroupOf is the group that an instance is in; empty: none.
	GroupOf(ctx context.Context, instanceID string) (string, error)
	// EC2Instances are what EC2 knows of these instances, by instance id; those it does not know are missing.
	EC2Instances(ctx context.Context, instanceIDs ...string) (map[string]EC2Instance, error)
}

// Fleet is what a sweep needs of Auto Scaling.
type Fleet interface {
	// List yields the groups of these names, or without names all that the account has. What cannot be had is an error, after
	// which there may be more.
	List(ctx context.Context, names ...string) iter.Seq2[Group, error]
	// ActivityStarts is when the activities that are under way in the group began, by instance id; one that it does not tell of is missing.
	ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error)
}

// Hooks is what a termination needs of lifecycle hooks.
type Hooks interface {
	// Describe is the hook's own settings; ErrNoHook: the group has no such hook.
	Describe(ctx context.Context, group, hook string) (Hook, error)
	// Heartbeat starts the hook's timeout anew.
	Heartbeat(ctx context.Context, t Termination) error
	// Complete ends the lifecycle action. ErrNoActiveAction is to be looked into.
	Complete(ctx context.Context, t Termination, result Result) error
}

// Queue is the queue that events come through.
type Queue interface {
	// Hide keeps a message that was received from being delivered again, for this long from now.
	Hide(ctx context.Context, receiptHandle string, d time.Duration) error
	// Send puts a message into the queue.
	Send(ctx context.Context, body string) error
	// Backlog is how many messages wait to be delivered, and how many were delivered and are neither done nor back. SQS
	// approximates both.
	Backlog(ctx context.Context) (waiting, underWay int, err error)
}

// DeadLetterQueue is where messages end that can never be processed.
type DeadLetterQueue interface {
	// Send puts the record there, with what is wrong with it.
	SendToDLQ(ctx context.Context, record Record) error
}

// Metrics are what people watch beside the log.
type Metrics interface {
	// Invocation is told what an invocation did about an event.
	Invocation(s Invocation)
	// Sweep is told what a sweep saw and did.
	Sweep(r SweepReport)
	// MalformedEvent is told of an event that was put aside.
	MalformedEvent()
}

// Archive is where reports are kept.
type Archive interface {
	// Store adds one report. None ever takes another's place.
	Store(ctx context.Context, r Report) error
}

// Kubernetes is what a termination needs of the cluster.
type Kubernetes interface {
	Nodes
	Marks
	Surroundings
	Leases
	Events
}

// Events are what people read who ask the cluster about a node.
type Events interface {
	// RecordEvent puts an event on the node.
	RecordEvent(ctx context.Context, node drain.Node, e NodeEvent) error
}

// Nodes are the cluster's nodes.
type Nodes interface {
	// FindNode looks up the node of an instance, by name if one is known; nil: there is none.
	FindNode(ctx context.Context, instanceID, name, zone string) (*drain.Node, error)
	// NodeByName looks up the node of that name; nil: there is none.
	NodeByName(ctx context.Context, name string) (*drain.Node, error)
	// Cordon closes the node to new pods and to load balancers, and notes on it what was changed and for which termination.
	// It returns when the node was closed: now, or when an earlier slice did it.
	Cordon(ctx context.Context, node drain.Node, hook string, began time.Time) (time.Time, error)
	// WatchPods returns the node's pods, seen once and watched until ctx ends.
	WatchPods(ctx context.Context, node drain.Node) (drain.Cluster, error)
}

// Marks are what Cordon left on nodes.
type Marks interface {
	// CordonedNodes are the nodes that are closed and bear a mark.
	CordonedNodes(ctx context.Context) ([]CordonedNode, error)
}

// Surroundings is what a drain touches or waits for beside its own node and pods.
type Surroundings interface {
	// TaintTerminating keeps evicted pods off other nodes that are terminating too, without the look of a cordon. They are known by their
	// instances, and by name where EC2 has told one; those that are not in the cluster are left out.
	TaintTerminating(ctx context.Context, others []drain.Node) error
	// Restore undoes on a node what Cordon and Repel changed there, and only that. Nothing is written to a node without
	// their mark, nor to one that is closed for another hook or for none, of which ours is false.
	Restore(ctx context.Context, node drain.Node, hook string) (ours bool, err error)
	// AwaitDetached returns when the volumes of these claims (namespace/name) are detached from the node.
	AwaitDetached(ctx context.Context, node drain.Node, claims []string) error
	// PDBs are the disruption budgets that select any of these pods.
	PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error)
}

// Leases keep two invocations from draining one instance at once.
type Leases interface {
	// AcquireLease takes the instance's Lease, and renews it until ctx ends or it is released; nil: another invocation holds it. A
	// deadline that is on the Lease, or comes to be, is reported to shorten: again at each renewal.
	AcquireLease(ctx context.Context, instanceID string, shorten func(deadline time.Time)) (Lease, error)
	// ShortenDeadline leaves a deadline on the instance's lease for whoever has that.
	ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error
	// Leases returns all Leases: those of instances, which have the instance's ID for their name, and those of escorts.
	Leases(ctx context.Context) ([]LeaseInfo, error)
	// DeleteFreeLease deletes the Lease of an instance that is gone, unless an invocation holds it.
	DeleteFreeLease(ctx context.Context, instanceID string) error
}

// Lease is an instance's Lease, held by this invocation. It keeps the records of the drain.
type Lease interface {
	drain.Records
	// Release gives the Lease up. What is on it stays for the next holder as far as keep says.
	Release(keep Keep) error
}

// LeaseInfo is a Lease as a sweep sees it.
type LeaseInfo struct {
	Name string
	Held bool // by an invocation that renews it
}

// Keep is what of a Lease outlives its release.
type Keep int

// What can be kept. A Lease on which nothing is kept is deleted.
const (
	KeepNothing Keep = iota // the instance is about to be terminated
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
	State string // of its life cycle, in Auto Scaling's words
}

// EC2Instance is what EC2 knows of an instance.
type EC2Instance struct {
	PrivateDNS string // the name that most nodes are called by; empty if it has none
	Terminated bool   // terminated, or about to be: nothing runs there that could be signalled
	Spot       bool   // EC2 may take it back
}

// CordonedNode is what a closed node says of the termination that it was closed for.
type CordonedNode struct {
	Node       drain.Node
	Hook       string    // that the instance waited on; empty: on none
	CordonedAt time.Time // when it was closed
}

// Hook is the settings of a lifecycle hook.
type Hook struct {
	HeartbeatTimeout time.Duration // after which it ends by itself unless it is kept alive
	GlobalTimeout    time.Duration // after which it ends whatever is done; zero: not told
	DefaultResult    Result
}
