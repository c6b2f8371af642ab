package bench

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
	"quiesce/test/parts/lab"
)

// primaryCases are the clusters whose primary's node is drained, and the way to ask for a switchover. Versions, modes, poolers and ways are
// paired.
var primaryCases = []struct {
	name     string
	options  patroni.Options
	settings string // of the escort
}{
	{"3.0-configmaps-rest", patroni.Options{Version: "3.0", Poolers: database.Options{Version: "1.18"}}, "connectVia: podIP"},
	{"4.0-endpoints-rest", patroni.Options{Version: "4.0", Endpoints: true, Poolers: database.Options{Version: "1.24"}}, "connectVia: podIP"},
	{"4.0-configmaps-key", patroni.Options{Version: "4.0", Synchronous: true, Poolers: database.Options{Version: "1.18"}}, "connectVia: portForward"},
	{"3.0-endpoints-key", patroni.Options{Version: "3.0", Endpoints: true, Poolers: database.Options{Version: "1.24"}}, "connectVia: portForward"},
}

// primaryWorkers is the number of worker groups, of five workers each, beside the ten clients of pgbench.
const primaryWorkers = 2

// BenchmarkPostgres drains the node of a primary under ten pgbench clients and ten workers, with and without the escort of primaries. It
// counts their transactions, and compares how long clients were held with how long no member took writes in the same run.
func BenchmarkPostgres(b *testing.B) {
	lab.RequireMachines(b)
	root, err := env.Root()
	require.NoError(b, err)
	pool, err := poolers.StartNodePool(b.Context(), "pgbouncer", "patroni")
	require.NoError(b, err)
	defer func() { require.NoError(b, pool.Stop()) }()
	require.NoError(b, pool.Lab.CutServices(b.Context())) // the function stands where a Lambda stands
	serial := 0
	for _, c := range primaryCases {
		for _, settings := range []string{c.settings, ""} {
			name := c.name + "/escort"
			if settings == "" {
				name = c.name + "/plain"
			}
			b.Run(name, func(b *testing.B) {
				var sums primaryTotals
				for range b.N {
					serial++
					run := drainPrimary(b, pool, root, fmt.Sprintf("primary-%d", serial), c.options, settings)
					fmt.Fprintf(os.Stderr, "postgres: %s: %s\n", name, run)
					sums.add(run)
				}
				sums.report(b)
			})
		}
	}
}

// primaryRun is what one drain of a primary's node did to its clients.
type primaryRun struct {
	transactions int // that clients saw committed
	failed       int // transactions, connections, and clients of pgbench that gave up
	lost         int // or duplicated
	held         time.Duration
	leaderless   time.Duration // from the last write that the old leader took to the first that the new one took
	stall        time.Duration // the longest wait of a worker
	drain        time.Duration

	before, after []journal.Worker
}

// String returns the run for a log.
func (r primaryRun) String() string {
	ms := time.Millisecond
	return fmt.Sprintf("%d of %d transactions failed, %d lost, held for %s, no leader for %s, longest wait %s, drained in %s",
		r.failed, r.transactions, r.lost, r.held.Round(ms), r.leaderless.Round(ms), r.stall.Round(ms), r.drain.Round(ms))
}

// drainPrimary drains one node. Only the drain counts as the benchmark's time.
func drainPrimary(b *testing.B, pool *poolers.NodePool, root, name string, o patroni.Options, settings string) (run primaryRun) {
	b.Helper()
	b.StopTimer()
	f, err := patroni.SetUp(b.Context(), pool, name, primaryWorkers, o)
	require.NoError(b, err)
	require.NoError(b, f.Cluster.Allow(b.Context(), root))
	function, err := f.Function(b.Context(), f.Configuration(settings))
	require.NoError(b, err)
	old, err := f.Cluster.LeaderName(b.Context())
	require.NoError(b, err)
	writes, err := f.Cluster.WatchWrites(b.Context())
	require.NoError(b, err)
	require.NoError(b, f.ResetStalls(b.Context()))
	before, err := f.Snapshot(b.Context())
	require.NoError(b, err)

	b.StartTimer()
	report, err := f.Drain(b.Context(), function, f.Target)
	b.StopTimer()
	require.NoError(b, err)
	require.Equal(b, termination.StatusDrained, report.Status, "%+v\n%s", report, function.Output())
	require.NoError(b, function.Close())
	now, err := f.Cluster.AwaitLeader(b.Context(), old)
	require.NoError(b, err)
	require.NoError(b, f.AwaitTermination(b.Context(), f.Target))
	require.NoError(b, f.AwaitCommits(b.Context(), 1))
	writes.Stop()
	run = finishPrimary(b, f)
	run.before = before.Workers
	run.held, run.drain = heldBack(report), report.FinishedAt.Sub(report.StartedAt)
	run.leaderless, err = writes.Leaderless(old, now)
	require.NoError(b, err)
	require.NoError(b, f.TearDown(b.Context()))
	return run
}

// finishPrimary stops all clients and counts.
func finishPrimary(b *testing.B, f *patroni.Fixture) (run primaryRun) {
	b.Helper()
	results, err := f.Finish(b.Context(), hangsAfter)
	require.NoError(b, err)
	bench, err := f.Pgbench.Finish(b.Context())
	require.NoError(b, err)
	return primaryRun{
		transactions: results.Comparison.Committed + bench.Processed,
		failed:       results.Interrupted() + results.Refused() + results.Closed() + bench.Failed + bench.Aborted,
		lost:         results.Inconsistent() + max(0, bench.Processed-bench.Rows),
		stall:        results.LongestStall(),
		after:        results.Workers,
	}
}

// primaryTotals are sums over the runs of one case, and the longest times.
type primaryTotals struct {
	primaryRun
	beyond  time.Duration // by which clients were held longer than no leader took writes
	clients clients       // the workers
}

func (s *primaryTotals) add(r primaryRun) {
	s.transactions += r.transactions
	s.failed += r.failed
	s.lost += r.lost
	s.held, s.leaderless, s.stall = max(s.held, r.held), max(s.leaderless, r.leaderless), max(s.stall, r.stall)
	s.clients.add(r.before, r.after)
	if r.held > 0 {
		s.beyond = max(s.beyond, r.held-r.leaderless)
	}
}

func (s *primaryTotals) report(b *testing.B) {
	for unit, value := range map[string]int{"transactions": s.transactions, "failed": s.failed, "lost": s.lost} {
		b.ReportMetric(float64(value), unit)
	}
	for unit, value := range map[string]time.Duration{
		"held-s": s.held, "leaderless-s": s.leaderless, "held-beyond-leaderless-s": s.beyond, "longest-wait-s": s.stall,
	} {
		b.ReportMetric(value.Seconds(), unit)
	}
	s.clients.report(b)
}
