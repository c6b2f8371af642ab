package metrics

// Namespace is the namespace of the function's own metrics. Each metric has the dimension Cluster.
const Namespace = "quiesce"

// The metrics. Each invocation of a drain writes all that it can measure, zeros included: a zero shows that it measured. What
// only the end of a drain decides comes once, from its last invocation. What only some invocations have (a status, a strategy,
// a malformed event) comes when there is one, because CloudWatch bills each name and dimension by the hour. No alarm needs
// zeros: each defines what missing data means.
const (
	Drains              = "Drains"              // drains that ended, by the further dimension Status
	DrainSeconds        = "DrainSeconds"        // from the start of the lifecycle action to its completion
	PodsEvicted         = "PodsEvicted"         // pods that are gone after an eviction
	PodsForced          = "PodsForced"          // pods deleted to meet the deadline
	PodsRemaining       = "PodsRemaining"       // pods that should have gone and did not; written at the end of a drain
	PDBBlockedSeconds   = "PDBBlockedSeconds"   // time of an invocation in which PDBs blocked at least one pod
	Escorts             = "Escorts"             // escorts that ended, by the further dimension Strategy
	TransactionsAborted = "TransactionsAborted" // transactions that outlasted their escort
	HeartbeatsFailed    = "HeartbeatsFailed"    // heartbeats that failed; each is repeated
	InvocationsFailed   = "InvocationsFailed"   // invocations that failed and will be retried; Lambda counts a returned message as no error
	Handoffs            = "Handoffs"            // invocations that ended before their drain did
	EventAgeSeconds     = "EventAgeSeconds"     // the age of a processed event at its first invocation
	HooksExpired        = "HooksExpired"        // lifecycle actions that ended before their drain did
	NodesNotFound       = "NodesNotFound"       // instances that had been in service and have no node
	PodsRefused         = "PodsRefused"         // pods whose eviction an admission webhook or policy denied to the end of the invocation
	EventsRejected      = "EventsRejected"      // events whose claim Auto Scaling or EC2 does not confirm
	MalformedEvents     = "MalformedEvents"     // events sent to the dead-letter queue
	UnhookedStops       = "UnhookedStops"       // instances that stopped without waiting on the hook
	ScheduledChanges    = "ScheduledChanges"    // instances with a change that EC2 has scheduled; hourly, with drain.onScheduledChange
	InstancesReplaced   = "InstancesReplaced"   // those of them whose termination was begun
	InstancesAtRisk     = "InstancesAtRisk"     // those of them that were not replaced although time is short
	Sweeps              = "Sweeps"              // sweeps that completed
	InstancesWaiting    = "InstancesWaiting"    // terminating instances that a sweep found
	InstancesDraining   = "InstancesDraining"   // those of them that an invocation drains
	EventsResent        = "EventsResent"        // lost termination events that a sweep sent again
	ClusterUnreachable  = "ClusterUnreachable"  // 1 if a sweep could not read from the cluster, otherwise 0
	GroupsWithoutHook   = "GroupsWithoutHook"   // groups that a sweep looked at and found without our hook
	HooksPut            = "HooksPut"            // hooks that a sweep put
	LongestWaitSeconds  = "LongestWaitSeconds"  // how long the instance that a sweep found waiting longest has waited
	InstancesRetained   = "InstancesRetained"   // instances whose termination was abandoned, and that their group keeps
	// OldestRetainedSeconds is how long the oldest of these has been kept; written only if there is one of known age.
	OldestRetainedSeconds = "OldestRetainedSeconds"
	Checks                = "Checks"       // checks that ran to their end
	ChecksFailed          = "ChecksFailed" // 1 if a step of the check failed, otherwise 0
)

// The dimensions. Every metric has Cluster. Some have one more.
const (
	Cluster  = "Cluster"
	Status   = "Status"
	Strategy = "Strategy"
)
