package config

import (
	"time"
)

// The defaults. Each is a trade-off that users may decide differently.
const (
	// defaultHook is the name of the hooks that the stack creates.
	defaultHook = "quiesce"
	// defaultMaxDuration is long enough for long transactions and slow PDBs. It still ends before people investigate.
	defaultMaxDuration = 30 * time.Minute
	// defaultCompletionReserve is enough to complete the lifecycle action despite the first retries of a throttled API. A
	// longer one would take time from the pods.
	defaultCompletionReserve = 30 * time.Second
	// defaultMaxConcurrentEvictions drains a full node as fast as its slowest pod, and does not crowd other clients out of the
	// API server.
	defaultMaxConcurrentEvictions = 16
	// defaultNodeJoinTimeout covers a kubelet that is just registering. It delays an instance that never joined no longer.
	defaultNodeJoinTimeout = 15 * time.Second
	// defaultVolumeDetachTimeout covers a slow detachment. Without the wait, a pod's successor waits six minutes for its
	// disk. A longer one would wait for a broken driver.
	defaultVolumeDetachTimeout = 60 * time.Second
	// defaultPhaseTimeout limits how long one phase holds up the next. It is longer than most grace periods, and leaves the
	// phases after a stuck one most of defaultMaxDuration.
	defaultPhaseTimeout = 5 * time.Minute
	// defaultEscortTimeout limits the escort of one pod before a plain eviction. It is time for a transaction to end, not for
	// a forgotten one.
	defaultEscortTimeout = 60 * time.Second
	// defaultMaxLag is one segment of PostgreSQL's log: a replica makes up for it in a second or two, with clients waiting.
	defaultMaxLag = 16 << 20
	// defaultPauseTimeout is ten times what a switchover usually takes. Clients give up after query_wait_timeout, 120 s by default.
	defaultPauseTimeout = 30 * time.Second
	// defaultScopeLabel is Patroni's (https://patroni.readthedocs.io/en/latest/kubernetes.html).
	defaultScopeLabel = "cluster-name"
	// poolerSettle lets clients find another pooler before their own pods get SIGTERM.
	poolerSettle = 5 * time.Second
)

// defaults has every default. The mode has none.
func defaults() Config {
	return Config{
		Lifecycle: Lifecycle{Hook: defaultHook, OnFailure: Continue},
		Drain: Drain{
			MaxDuration: defaultMaxDuration, CompletionReserve: defaultCompletionReserve,
			MaxConcurrentEvictions: defaultMaxConcurrentEvictions, NodeJoinTimeout: defaultNodeJoinTimeout,
			VolumeDetachTimeout: defaultVolumeDetachTimeout, OnDeadline: Force,
		},
		Phases: defaultPhases(),
		Stack:  defaultStack(),
	}
}

// defaultPhases puts poolers first, because other pods need them. The escort recognizes them. System pods go last, for
// the same reason.
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

// defaultPGBouncer has no ConnectVia: that depends on the stack.
func defaultPGBouncer() *PGBouncer {
	return &PGBouncer{Strategy: StrategyAuto, Timeout: defaultEscortTimeout, Console: Console{TLS: TLSPrefer}}
}

// defaultPostgres has neither ConnectVia nor credentials: see chooseConnections.
func defaultPostgres() *Postgres {
	return &Postgres{
		Strategy: StrategySwitchover, MaxLag: defaultMaxLag, PauseTimeout: defaultPauseTimeout, Poolers: PoolersAuto,
		ScopeLabel: defaultScopeLabel, Console: Console{TLS: TLSPrefer},
	}
}
