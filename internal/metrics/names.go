package metrics

// Namespace is that of the function's own metrics, each with the dimension Cluster.
const Namespace = "quiesce"

// The metrics. Each slice of a drain tells of all that it can tell of, zeros included: a zero says that somebody looked. What a
// drain's end decides comes once, with its last slice; what only some have (a status, a strategy, a malformed event) comes when there
// is one, since each name and dimension is paid for by the hour. No alarm needs zeros: it takes silence for what it means.
const (
	Drains              = "Drains"           // ended, by the further dimension Status
	DrainSeconds        = "DrainSeconds"     // from the beginning of the lifecycle action to its completion
	PodsEvicted         = "PodsEvicted"      // that left after being signalled
	PodsForced          = "PodsForced"       // deleted because time ran out
	PodsRemaining       = "PodsLeft"         // left to die with the instance though they were wanted gone; told at a drain's end
	PDBBlockedSeconds   = "BlockedSeconds"   // of a slice, in which budgets held back a pod
	Escorts             = "Escorts"          // ended, by the further dimension Strategy
	TransactionsAborted = "TransactionsCut"  // that outlasted their escort
	HeartbeatsFailed    = "HeartbeatsFailed" // which are made again
	InvocationsFailed   = "SlicesFailed"     // that went wrong, and are tried again; to Lambda a message that goes back is no error
	Handoffs            = "HandOvers"        // slices that ended before their drain did
	EventAgeSeconds     = "QueueSeconds"     // an event's age when its first slice began
	HooksExpired        = "HooksExpired"     // lifecycle actions that were over before their drain was
	MalformedEvents     = "Malformed"        // events put aside
	Sweeps              = "Sweeps"           // that ran to their end
	InstancesWaiting    = "Waiting"          // instances on their way out that a sweep saw
	InstancesDraining   = "Owned"            // of these, by an invocation that drains them
	EventsResent        = "Enqueued"         // terminations whose event was lost
)

// Dimensions. Cluster is that of all; the others some metrics have beside it.
const (
	Cluster  = "Cluster"
	Status   = "Status"
	Strategy = "Strategy"
)
