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
	MalformedEvents     = "MalformedEvents"     // events sent to the dead-letter queue
	Sweeps              = "Sweeps"              // sweeps that completed
	InstancesWaiting    = "InstancesWaiting"    // terminating instances that a sweep found
	InstancesDraining   = "InstancesDraining"   // those of them that an invocation drains
	EventsResent        = "EventsResent"        // lost termination events that a sweep sent again
)

// The dimensions. Every metric has Cluster. Some have one more.
const (
	Cluster  = "Cluster"
	Status   = "Status"
	Strategy = "Strategy"
)
