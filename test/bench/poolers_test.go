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
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
	"quiesce/test/parts/lab"
)

// hangsAfter is the time without a commit after which a worker with transactions of 30 ms counts as hanging.
const hangsAfter = 5 * time.Second

// baselineTime is how long workers are watched before the drain: about as long as a drain takes.
const baselineTime = 4 * time.Second

// poolerCases are the situations of a pooler whose node is drained.
var poolerCases = []struct {
	name, strategy string
	workers        []string // flags of an extra worker
	careful        bool     // workers recycle or validate their connections, and the poolers have the recommended preStop hook
	single         bool     // one pooler, under a PDB that never allows an eviction
}{
	{name: "evict", strategy: "evict"},
	{name: "surge", strategy: "surge"},
	{name: "straggler", strategy: "evict", workers: []string{"-straggler=4s"}},
	{name: "careful-evict", strategy: "evict", careful: true},
	{name: "careful-surge", strategy: "surge", careful: true},
	{name: "single", strategy: "surge", single: true},
}

// BenchmarkPoolers drains the node of a pooler with 20 busy workers and counts the results of their transactions: sums over all
// iterations, and the longest stall of any worker but the straggler.
func BenchmarkPoolers(b *testing.B) {
	lab.RequireMachines(b)
	root, err := env.Root()
	require.NoError(b, err)
	s, err := env.Start(b.Context(), env.Options{Root: root, Machines: true})
	require.NoError(b, err)
	defer func() { require.NoError(b, s.Stop()) }()
	pool, serial := poolers.NewNodePool(s), 0
	for _, version := range []string{"1.18", "1.24"} {
		for _, c := range poolerCases {
			o := poolers.Options{ExtraWorker: c.workers, Poolers: database.Options{Version: version}}
			if c.careful {
				o.Flags = [][]string{{"-recycle=1s"}, {"-validate"}}
				o.Poolers.PreStop, o.Poolers.Grace = database.Recommended[version], 60
			}
			if c.single {
				o.Poolers.Poolers, o.Poolers.MaxUnavailable = 1, "0"
			}
			b.Run(version+"/"+c.name, func(b *testing.B) {
				var sums totals
				for range b.N {
					serial++
					o.Name = fmt.Sprintf("bench-%d", serial)
					results, before := drainOnce(b, pool, c.strategy, o)
					sums.add(results, before)
				}
				sums.report(b)
			})
		}
	}
}

// totals sums up the iterations of one case.
type totals struct {
	aborted, ambiguous, inconsistent, hanging, refused, closed int
	stall, usual                                               time.Duration
	clients                                                    clients
}

func (s *totals) add(r poolers.Results, before journal.Snapshot) {
	s.aborted += r.Comparison.Aborted + r.Comparison.InFlight
	s.ambiguous += r.Comparison.Ambiguous
	s.inconsistent += r.Inconsistent()
	s.hanging += len(r.Hanging)
	s.refused += r.Refused()
	s.closed += r.Closed()
	s.stall, s.usual = max(s.stall, r.LongestStall()), max(s.usual, poolers.LongestStall(before.Workers))
	s.clients.add(before.Workers, r.Workers)
}

func (s *totals) report(b *testing.B) {
	for unit, value := range map[string]int{
		"aborted": s.aborted, "ambiguous": s.ambiguous, "inconsistent": s.inconsistent, "hanging": s.hanging, "refused": s.refused, "closed-between": s.closed,
	} {
		b.ReportMetric(float64(value), unit)
	}
	b.ReportMetric(s.stall.Seconds(), "longest-stall-s")
	b.ReportMetric(s.usual.Seconds(), "usual-stall-s")
	s.clients.report(b)
}

// drainOnce drains one node, and returns the workers' journals after and before that. Only the drain counts as the benchmark's time.
func drainOnce(b *testing.B, pool *poolers.NodePool, strategy string, o poolers.Options) (results poolers.Results, before journal.Snapshot) {
	b.Helper()
	b.StopTimer()
	t, err := poolers.SetUp(b.Context(), pool, o)
	require.NoError(b, err)
	function, err := t.Function(b.Context(), t.Configuration(t.Credentials(), "strategy: "+strategy))
	require.NoError(b, err)
	before = watchUsual(b, t)
	b.StartTimer()
	report, err := t.Drain(b.Context(), function, t.Target)
	b.StopTimer()
	require.NoError(b, err)
	require.NoError(b, function.Close())
	for _, p := range report.Pods {
		require.True(b, p.Escort == nil || p.Escort.Strategy == strategy, "%+v", p.Escort)
	}
	require.NoError(b, t.AwaitTermination(b.Context(), t.Target))
	results, err = t.Finish(b.Context(), hangsAfter)
	require.NoError(b, err)
	require.NoError(b, t.TearDown(b.Context()))
	fmt.Fprintf(os.Stderr, "poolers: %s %s: %d of %d interrupted, %d ambiguous, %d hang, %d refused, %d closed between transactions, longest stall %s (%s without a drain), held back for %s, drained in %s\n",
		o.Poolers.Version, strategy, results.Interrupted(), results.Comparison.Committed, results.Comparison.Ambiguous, len(results.Hanging), results.Refused(),
		results.Closed(), results.LongestStall().Round(time.Millisecond), poolers.LongestStall(before.Workers).Round(time.Millisecond), heldBack(report), report.FinishedAt.Sub(report.StartedAt).Round(time.Millisecond))
	for _, w := range results.Workers {
		if len(w.Aborted)+len(w.Ambiguous) > 0 {
			fmt.Fprintf(os.Stderr, "poolers: worker %d, whose round takes %s: %s\n%s\n", w.Worker, w.Pace, w.LastError, function.Output())
		}
	}
	return results, before
}

// watchUsual returns the workers' journals of a time like a drain's in which nothing happens. Their stalls are the effect of the machine alone.
func watchUsual(b *testing.B, t *poolers.Fixture) journal.Snapshot {
	b.Helper()
	require.NoError(b, t.ResetStalls(b.Context()))
	require.NoError(b, poolers.Wait(b.Context(), baselineTime))
	now, err := t.Snapshot(b.Context())
	require.NoError(b, err)
	require.NoError(b, t.ResetStalls(b.Context()))
	return now
}

// heldBack returns how long new transactions had to wait, as reported.
func heldBack(r termination.Report) (d time.Duration) {
	for _, p := range r.Pods {
		if p.Escort != nil {
			d = time.Duration(p.Escort.HeldBackSeconds * float64(time.Second))
		}
	}
	return d
}
