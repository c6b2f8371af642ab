package config

import (
	"time"
)

// The defaults, each a trade-off that a user may see differently.
const (
	// defaultHook is the name that the stack gives to the hooks it makes.
	defaultHook = "quiesce"
	// defaultMaxDuration lets long transactions and slow budgets end, and still ends before people look into it.
	defaultMaxDuration = 30 * time.Minute
	// defaultReserve is enough to complete the lifecycle action through minutes of throttling's first retries. More would
	// be taken from the pods.
	defaultReserve = 30 * time.Second
	// defaultConcurrency keeps a full node's drain as quick as its slowest pod without crowding others out of the API server.
	defaultConcurrency = 16
	// defaultJoinGrace covers a kubelet that is just registering. An instance that never joined is held up by no more.
	defaultJoinGrace = 15 * time.Second
	// defaultVolumeDetach covers a slow detachment. Without it a pod's successor waits six minutes for its disk; more would
	// wait for a driver that is broken.
	defaultVolumeDetach = 60 * time.Second
	// defaultPhaseTimeout is how long one phase may hold back the next: longer than most grace periods, and short enough
	// that a phase that is stuck leaves the others most of defaultMaxDuration.
	defaultPhaseTimeout = 5 * time.Minute
	// defaultEscortTimeout is how long one pod's escort may take before the pod is evicted plainly: time for a transaction
	// to end, not for one that was forgotten.
	defaultEscortTimeout = 60 * time.Second
	// poolerSettle lets clients find another pooler before their own pods are told to stop.
	poolerSettle = 5 * time.Second
)

func defaults() Config {
	return Config{
		Mode:      ModeDrain,
		Lifecycle: Lifecycle{Hook: defaultHook, OnFailure: Continue},
		Drain: Drain{
			MaxDuration: defaultMaxDuration, CompletionReserve: defaultReserve, MaxConcurrentEvictions: defaultConcurrency,
			NodeJoinTimeout: defaultJoinGrace, VolumeDetachTimeout: defaultVolumeDetach, OnDeadline: Force,
		},
		Phases: defaultPhases(),
		Stack:  defaultStack(),
	}
}

// defaultPhases let poolers go first, those that the escort recognises, because the others need them, and the system's own pods
// last, for the same reason.
func defaultPhases() []Phase {
	// Every cluster has these two: https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/.
	system := []string{"system-cluster-critical", "system-node-critical"}
	return []Phase{
		{Name: "poolers", PGBouncer: defaultPGBouncer(), Settle: poolerSettle, Timeout: defaultPhaseTimeout},
		workloads(),
		{Name: Critical, Match: Match{PriorityClasses: system}, Timeout: defaultPhaseTimeout},
	}
}

func workloads() Phase { return Phase{Name: Workloads, Timeout: defaultPhaseTimeout} }

func defaultPGBouncer() *PGBouncer {
	return &PGBouncer{Strategy: StrategyAuto, Timeout: defaultEscortTimeout, ConnectVia: ViaPodIP, TLS: TLSPrefer}
}
