package termination

import (
	"context"
	"iter"
	"net/netip"
	"time"

	"quiesce/internal/drain"
)

// Groups answers questions about Auto Scaling groups and their EC2 instances.
type Groups interface {
	// Instance returns the instance in any state, of a warm pool too. An instance that is in no group has no Group.
	Instance(ctx context.Context, instanceID string) (Instance, error)
	// Group returns the group as last described. The description can lag. A group that does not exist has no name.
	Group(ctx context.Context, name string) (Group, error)
	// WarmPool returns the instances of the group's warm pool.
	WarmPool(ctx context.Context, group string) ([]Instance, error)
	// EC2Instances returns what EC2 knows of these instances, by instance ID. Instances that EC2 does not know are missing.
	EC2Instances(ctx context.Context, instanceIDs ...string) (map[string]EC2Instance, error)
	// SpotInterrupted reports whether EC2 is about to reclaim the Spot instance, as its request says, and since when. The zero time is
	// unknown.
	SpotInterrupted(ctx context.Context, instanceID string) (since time.Time, interrupted bool, err error)
	// List yields the groups of these names, or without names all groups of the account. An error stands for groups that could not
	// be described; more groups may follow it.
	List(ctx context.Context, names ...string) iter.Seq2[Group, error]
	// ScheduledChanges returns the changes that EC2 has scheduled for running instances of the account, without those that are over.
	ScheduledChanges(ctx context.Context) ([]ScheduledChange, error)
	// Terminate begins the termination of an instance. Its hooks hold it, and the group launches another one.
	Terminate(ctx context.Context, instanceID string) error
	// ActivityStarts returns when the group's running activities began, by instance ID. Instances that no activity names are missing.
	ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error)
	// TerminationEnds returns when the latest termination of each of these instances ended. Instances without a known end are missing.
	TerminationEnds(ctx context.Context, group string, instanceIDs ...string) (map[string]time.Time, error)
}

// Hooks reads and changes lifecycle hooks, and acts on lifecycle actions.
type Hooks interface {
	// Describe returns the hook's settings; ErrNoHook: the group has no such hook.
	Describe(ctx context.Context, group, hook string) (Hook, error)
	// Put creates a hook for terminations, or gives it other settings. Auto Scaling decides on the GlobalTimeout.
	Put(ctx context.Context, group, hook string, settings Hook) error
	// Delete removes the hook. The actions that wait on it end with CONTINUE.
	Delete(ctx context.Context, group, hook string) error
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
	// Check counts a check, and whether it failed.
	Check(r CheckReport)
	// ScheduledChanges counts what a look at scheduled changes found and did.
	ScheduledChanges(c ScheduledCounts)
	// UnhookedStop counts an instance that stopped without waiting on our hook.
	UnhookedStop()
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
	// FindNodes looks up the nodes of an instance, with what EC2 has told of it.
	FindNodes(ctx context.Context, instanceID string, known EC2Instance) (FoundNodes, error)
	// NodeByName looks up the node of that name; nil: there is none.
	NodeByName(ctx context.Context, name string) (*drain.Node, error)
	// Cordon closes the node to new pods and to load balancers. It saves what it changes before it changes it, and returns that. A
	// node that is closed for this termination already stays as it is, and so does when it was cordoned. A drain goes on after an error, and
	// only says so, unless it is drain.ErrNodeReplaced: the node is another one now. It is *drain.Refused if an admission webhook or a missing
	// permission denies it.
	Cordon(ctx context.Context, node drain.Node, c Closing) (ClosedNode, error)
	// Restore undoes on a node what Cordon and TaintTerminating changed there, and only that. With no ClosedNode only the taint is
	// removed. A node whose object is another one now is not changed.
	Restore(ctx context.Context, node drain.Node, closed *ClosedNode) error
	// TaintTerminating keeps evicted pods off nodes that terminate, without a cordon: off peers, and off the drained node until its cordon.
	// The nodes are known by their instances, and by name where EC2 has told one. Nodes that are not in the cluster are skipped.
	TaintTerminating(ctx context.Context, nodes []drain.Node) error
	// WatchPods returns the node's pods, listed once and watched until ctx ends. With EffortMetadata it reads only their metadata.
	WatchPods(ctx context.Context, node drain.Node, effort drain.Effort) (drain.Cluster, error)
	// AwaitDetached returns when no volumes are attached to the node but those of the pods that stay.
	AwaitDetached(ctx context.Context, node drain.Node, stay []drain.Pod) (detached int, err error)
	// PDBs returns the PodDisruptionBudgets that select any of these pods.
	PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error)
	// RecordEvent creates a Kubernetes event on the node.
	RecordEvent(ctx context.Context, node drain.Node, e NodeEvent) error
	// RecordPodEvent creates a Kubernetes event about a pod, in its namespace. That the event is there already is no error.
	RecordPodEvent(ctx context.Context, e drain.PodEvent) error
	// AcquireLease acquires the instance's Lease, and renews it until ctx ends or it is released; nil: another invocation holds it.
	AcquireLease(ctx context.Context, instanceID string, a Acquisition) (Lease, error)
	// ShortenDeadline leaves a deadline on the instance's Lease for the invocation that holds it.
	ShortenDeadline(ctx context.Context, instanceID string, deadline time.Time) error
	// Leases returns all Leases: the ones of instances, which have the instance's ID for their name, and the ones of escorts.
	Leases(ctx context.Context) ([]LeaseInfo, error)
	// ReadRecords returns the records that are on the instance's Lease now, without acquiring it. They cannot be changed.
	ReadRecords(ctx context.Context, instanceID string) (drain.Records, error)
	// DeleteFreeLease deletes the Lease of an instance that is gone, unless an invocation holds it.
	DeleteFreeLease(ctx context.Context, instanceID string) error
}

// FoundNodes are the Node objects that claim an instance. The one that EC2 confirms is the first.
type FoundNodes struct {
	Nodes     []drain.Node
	Ambiguity string // why it is not certain which node is the instance's; empty: it is
}

// Closing says for which termination a node is closed, and where to save what is changed.
type Closing struct {
	Hook    string    // the hook that the instance waits on; empty: none
	Trigger Trigger   // why the node is closed without a hook; empty: by hand
	Began   time.Time // when the termination did
	// Earlier is what the Lease says of an earlier closing of this node; nil: nothing. It survives: the node's present state no
	// longer shows what was changed then.
	Earlier *ClosedNode
	// Save keeps the changes before they are made; nil: there is no Lease to keep them in.
	Save func(context.Context, ClosedNode) error
}

// ClosedNode is what Cordon changed on a node, and for which termination. It is kept in the Lease: what a node says of itself is not
// believed.
type ClosedNode struct {
	Name          string    `json:"name"`
	UID           string    `json:"uid"`
	Hook          string    `json:"hook,omitempty"`
	Trigger       Trigger   `json:"trigger,omitempty"`
	Began         time.Time `json:"began"`
	CordonedAt    time.Time `json:"cordoned"`                // when quiesce closed it last
	Unschedulable bool      `json:"unschedulable,omitempty"` // quiesce set spec.unschedulable
	Excluded      bool      `json:"excluded,omitempty"`      // quiesce set the label that excludes the node from load balancers
	KeptOpen      bool      `json:"keptOpen,omitempty"`      // the action is kept open to the hook's limit: see keepOpen
}

// IsOf reports whether the node was closed for this termination. A node is closed after its termination has begun, and before the next
// one begins. When it began is not compared otherwise: an invocation that cannot read the activities knows only when the event was received.
func (n ClosedNode) IsOf(hook string, trigger Trigger, began time.Time) bool {
	return n.Hook == hook && n.Trigger == trigger && !began.After(n.CordonedAt)
}

// Acquisition is what an invocation brings to a Lease.
type Acquisition struct {
	// Received is when the event was received first. The earliest of all invocations stays on the Lease. Zero: unknown.
	Received time.Time
	// Deadline is that of a Spot interruption. It stays on the Lease until the instance is gone, for every later drain. Zero: none.
	Deadline time.Time
	// Shorten is told a deadline that is on the Lease: at once, and again at each renewal.
	Shorten func(deadline time.Time)
	// Lost is called when a write shows that the Lease is not this invocation's any more: it expired, and another one took it. Nil:
	// nothing is called.
	Lost func()
}

// Lease is an instance's Lease, held by this invocation. It keeps the records of the drain.
type Lease interface {
	drain.Records
	// FirstReceived returns the earliest receipt of the event by any invocation.
	FirstReceived() time.Time
	// UncleanEnds returns how many invocations in a row held the Lease, and ended without releasing it, before a pod was gone.
	UncleanEnds() int
	// PodGone tells the Lease that a pod is gone. The next renewal resets the count of unclean ends.
	PodGone()
	// Closed returns what was changed on nodes.
	Closed() []ClosedNode
	// Escorted returns the UIDs of pods that have a record of their escort.
	Escorted() []string
	// SetClosed saves what is changed on a node.
	SetClosed(ctx context.Context, n ClosedNode) error
	// ForgetClosed removes what was saved of the node of this UID.
	ForgetClosed(ctx context.Context, nodeUID string) error
	// Release gives the Lease up. Keep says what of it stays for the next holder.
	Release(keep Keep) error
}

// LeaseInfo is a Lease as a sweep sees it.
type LeaseInfo struct {
	Name     string
	Held     bool         // by an invocation that renews it
	Received time.Time    // the first receipt of the event, as on the Lease; zero: unknown
	Closed   []ClosedNode // what was changed on nodes
	Escorted []string     // the UIDs of pods that escorts have changed, and may not have undone
}

// Keep says which part of a Lease outlives its release.
type Keep int

// What can be kept. A Lease on which nothing is kept is deleted.
const (
	KeepNothing Keep = iota // nothing is left that could be undone
	KeepClosed              // what was changed on nodes, and the deadline of a Spot interruption
	KeepRecords             // the same, and what escorts changed and did not undo
	KeepAll                 // everything: a later invocation continues the drain
)

// Group is an Auto Scaling group as last described.
type Group struct {
	Name      string
	Tags      map[string]string
	CreatedAt time.Time  // zero: unknown
	Deleting  bool       // it is about to be gone
	Instances []Instance // without those of its warm pool
	WarmPool  bool       // it has one
	Missing   int        // the capacity in service that it lacks; below one: none
}

// Instance is one instance of a group.
type Instance struct {
	ID    string
	Group string // empty: it is in none
	Zone  string
	State string // Auto Scaling's lifecycle state
	// Protected: a scale-in does not choose it. Only the description of a group says so.
	Protected bool
}

// EC2Instance is an instance as EC2 describes it.
type EC2Instance struct {
	PrivateDNS string       // the name of most nodes; empty if the instance has none
	Addresses  []netip.Addr // one of them is the InternalIP of its node
	LaunchedAt time.Time    // zero: unknown
	Terminated bool         // terminated or shutting down: nothing runs there that could be signaled
	Stopped    bool         // terminated, stopped, or about to be
	StopReason string       // EC2's code of why its state changed last, such as Client.UserInitiatedShutdown
	Spot       bool         // EC2 may reclaim it
}

// Hook is the settings of a lifecycle hook.
type Hook struct {
	HeartbeatTimeout time.Duration // after which the action ends without a heartbeat
	GlobalTimeout    time.Duration // after which the action ends, heartbeats or not; zero: unknown
	DefaultResult    Result        // how an action without a heartbeat ends
	Launching        bool          // it holds instances that launch, not those that terminate
	ManagedBy        string        // the stack that put it, as its NotificationMetadata says; empty: none of quiesce
}
