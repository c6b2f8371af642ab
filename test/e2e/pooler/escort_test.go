package pooler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
)

// maxClosedAtBegin is how many of the ten workers that recycle or validate their connections may see an error at BEGIN. A validated
// connection can close during one round trip in forty, and more often on a busy machine. A bound of one fails by chance.
const maxClosedAtBegin = 3

// stuckAfter is more than any drain here takes on a busy machine, and less than one that waits for clients that never disconnect.
const stuckAfter = 3 * time.Minute

// With surge, or with a preStop hook that outlasts the node proxies of a busy machine, new connections have time to go to another pooler.
// Then workers that recycle or validate their connections see hardly any error.
func TestEscort_EachStrategy_NoTransactionAborted(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		for _, strategy := range []string{"evict", "surge"} {
			t.Run(version+" "+strategy, func(t *testing.T) {
				o := poolers.Options{Poolers: database.Options{Version: version}, Flags: careful}
				if strategy == "evict" {
					o.Poolers.PreStop, o.Poolers.Grace = "sleep 15", 60
				}
				p := newFixture(t, o, "strategy: "+strategy)
				report := p.drain()
				require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
				escort := poolerOf(t, report).Escort
				require.Equal(t, strategy, escort.Strategy, "%+v", escort)
				require.True(t, strings.HasPrefix(escort.Version, version), escort.Version)
				require.Positive(t, escort.Clients)
				require.Empty(t, escort.AbortedDetail)
				results := p.finish()
				requireNoneAborted(t, results)
				require.LessOrEqual(t, results.ClosedOnCareful(), maxClosedAtBegin, "errors at BEGIN: %s", results.Errors())
				require.Zero(t, results.Refused(), "connects refused: %s", results.Errors())
			})
		}
	}
}

// straggles is how long the straggler's transaction takes: so long that a busy machine does not stall the others as long. A paused pooler of
// 1.18 stays in its Service, so that a worker may choose it several times. Each time costs it a second.
const straggles = 15 * time.Second

// The other workers stall for less than the straggler's transaction. How much less is measured by make bench-pgbouncer, on a
// machine that does nothing else.
func TestEscort_LongTransaction_CommitsWithoutStallingOthers(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{
				WorkerGroups: 2, Poolers: database.Options{Version: version}, ExtraWorker: []string{"-straggler=" + straggles.String()},
			}, "strategy: evict")
			report := p.drain()
			require.Empty(t, poolerOf(t, report).Escort.AbortedDetail)
			results := p.finish()
			requireNoneAborted(t, results)
			for _, w := range results.Workers {
				if w.Pace < time.Second {
					require.Less(t, w.LongestStall-w.Pace, straggles, "worker %d", w.Worker)
				}
			}
		})
	}
}

// A single pooler under a PDB that never allows an eviction blocks every other drainer until its deadline. One of the two
// consoles is reached over the API server.
func TestEscort_SinglePoolerPDBNeverAllows_Surged(t *testing.T) {
	t.Parallel()
	for version, via := range map[string]string{"1.18": "podIP", "1.24": "portForward"} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 2, Poolers: database.Options{Version: version, Poolers: 1, MaxUnavailable: "0"}}, "connectVia: "+via)
			require.NotEmpty(t, poolerOf(t, p.plan()).Warnings)
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			escort := poolerOf(t, report).Escort
			require.Equal(t, "surge", escort.Strategy)
			require.GreaterOrEqual(t, escort.HeldBackAt.Sub(p.readyAt()), quiet, "stopped before node proxies could know its replacement")
			requireNoneAborted(t, p.finish())
		})
	}
}

// quiet is how long a pooler gets no new clients before it is stopped: quietTime of internal/pooler.
const quiet = 2 * time.Second

// readyAt returns when the only pooler became ready, rounded down to a second. How soon node proxies know it depends on the machine.
func (p *fixture) readyAt() time.Time {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	require.Len(p, pods, 1)
	at := slices.IndexFunc(pods[0].Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	require.GreaterOrEqual(p, at, 0)
	return pods[0].Status.Conditions[at].LastTransitionTime.Time
}

// A DaemonSet's pooler cannot move and serves the other pods of its node. It is stopped last and ends after the last transaction.
func TestEscort_DaemonSetPooler_StoppedLast(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 1, Poolers: database.Options{Version: version, Daemon: true}})
			client := p.connect(p.Target)
			p.execute(client, "BEGIN; SELECT 1")
			ended := make(chan termination.Report, 1)
			go func() {
				report, err := p.Drain(p.ctx, p.function, p.Target)
				if err != nil {
					t.Error(err)
				}
				ended <- report
			}()
			p.awaitLog("pgbouncer paused") // its liveness probe needs the port, which a shutdown from 1.23 on would close
			sent := time.Now()             // the answer may reach this test later than the function
			p.execute(client, "COMMIT")
			report := <-ended
			require.NoError(t, p.AwaitTermination(p.ctx, p.Target))
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			require.False(t, report.FinishedAt.Before(sent))
			pooler := poolerOf(t, report)
			require.Equal(t, drain.Skipped, pooler.Outcome)
			require.Equal(t, "shutdown", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.Empty(t, pooler.Escort.AbortedDetail)
			require.Positive(t, pooler.Escort.Transactions)
			results, err := p.Finish(p.ctx, hangsAfter)
			require.NoError(t, err)
			require.Zero(t, results.Comparison.Aborted+results.Comparison.Ambiguous, "%+v", results.Comparison)
		})
	}
}

// A PDB blocks the pooler until the deadline nears. Then the pooler is deleted, after the same escort as any other.
func TestEscort_PDBNeverAllows_DrainedThenForced(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 2, Poolers: database.Options{Version: version, MaxUnavailable: "0"}})
			p.function = p.startWith(p.Configuration(p.Credentials(), "strategy: evict", "timeout: 20s") +
				"drain: {maxDuration: 80s, completionReserve: 5s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}\n")
			report := p.drain()
			require.Equal(t, termination.StatusForced, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Equal(t, drain.Forced, pooler.Outcome)
			require.Contains(t, pooler.Reason, "deadline: deleted with ")
			require.Contains(t, pooler.Reason, "blocked by ")
			require.NotEmpty(t, pooler.BlockedBy)
			require.Equal(t, "evict", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.Empty(t, pooler.Escort.AbortedDetail)
			requireNoneAborted(t, p.finish())
		})
	}
}

// watchEnds watches the poolers. The function that it returns waits until a pod's pgbouncer has exited, and returns when its kubelet says
// it did, in whole seconds.
func (p *fixture) watchEnds() (endOf func(pod string) time.Time) {
	p.Helper()
	watched, err := p.Lab.Client().CoreV1().Pods(p.Name).Watch(p.ctx, metav1.ListOptions{LabelSelector: database.PoolerLabels.String()})
	require.NoError(p, err)
	p.Cleanup(watched.Stop)
	return func(name string) time.Time {
		for event := range watched.ResultChan() {
			pod, is := event.Object.(*corev1.Pod)
			if !is || pod.Name != name {
				continue
			}
			for _, c := range pod.Status.ContainerStatuses {
				if c.State.Terminated != nil {
					return c.State.Terminated.FinishedAt.Time
				}
			}
		}
		p.Fatalf("the watch ended before pgbouncer in %s did", name)
		return time.Time{}
	}
}

// The next pooler is told to stop when pgbouncer in the one before has exited. Its pod may exist for seconds more.
func TestEscort_TwoNodes_OnePoolerAtATime(t *testing.T) {
	p := newFixture(t, poolers.Options{WorkerGroups: 2, Poolers: database.Options{Version: "1.24"}}, "strategy: evict")
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(t, err)
	other := p.Nodes[0]
	for _, i := range p.Nodes {
		if i != p.Target && (pods[0].Spec.NodeName == i.Node || pods[1].Spec.NodeName == i.Node) {
			other = i
		}
	}
	ends := p.watchEnds()
	second := p.newFunction(p.Credentials(), "strategy: evict")
	reports := make(chan termination.Report, 1)
	go func() {
		report, err := p.Drain(p.ctx, second, other)
		if err != nil {
			t.Error(err)
		}
		reports <- report
	}()
	first, err := p.Drain(p.ctx, p.function, p.Target)
	require.NoError(t, err)
	later := <-reports
	require.NoError(t, p.AwaitTermination(p.ctx, p.Target))
	require.NoError(t, p.AwaitTermination(p.ctx, other))
	a, b := poolerOf(t, first), poolerOf(t, later)
	if a.EvictedAt.After(b.EvictedAt) {
		a, b = b, a
	}
	end := ends(a.Name)
	require.False(t, b.EvictedAt.Before(end), "%s was stopped at %s while pgbouncer in %s ran until %s", b.Name, b.EvictedAt, a.Name, end)
	results := p.finish()
	requireNoneAborted(t, results)
}

// Both poolers are on the node. During the escort of the first, the admin's password changes in the Secret and in the second
// pooler. The first console is already open and stays so; the second is opened with the new password. The hook of the first ends after that.
func TestEscort_PasswordRotated_DrainContinues(t *testing.T) {
	p := newFixture(t, poolers.Options{
		WorkerGroups: 1,
		Poolers:      database.Options{Version: "1.24", Together: true, PreStop: "until test -e /tmp/go; do sleep 0.2; done", Grace: 120},
	}, "strategy: evict")
	ended := make(chan termination.Report, 1)
	go func() {
		report, err := p.Drain(p.ctx, p.function, p.Target)
		if err != nil {
			t.Error(err)
		}
		ended <- report
	}()
	p.awaitLog("pgbouncer evicted")
	p.rotate("a new console password")
	p.inside("for pid in $(pgrep -x pgbouncer); do touch /proc/$pid/root/tmp/go; done")
	report := <-ended
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	escorted := 0
	for _, pod := range report.Pods {
		if pod.Escort != nil {
			require.Equal(t, "evict", pod.Escort.Strategy, "%+v", pod)
			escorted++
		}
	}
	require.Equal(t, 2, escorted)
	require.NotContains(t, p.function.Output(), "a new console password")
	require.NoError(t, p.AwaitTermination(p.ctx, p.Target))
}

// The workers pause longer than they work. pgbouncer looks three times a second for a session that is between two transactions. A
// session without pauses may be met in none of these looks before the preStop hook ends, and is cut then. On a busy machine each look finds
// fewer of them, so the hook of 1.18 takes longer than recommended.
func TestEscort_SessionPooling_ClosedBetweenTransactions(t *testing.T) {
	t.Parallel()
	for version, hook := range map[string]string{"1.18": "sleep 25", "1.24": database.Recommended["1.24"]} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{
				WorkerGroups: 2, Flags: [][]string{{"-think=150ms"}},
				Poolers: database.Options{Version: version, PoolMode: "session", PreStop: hook, Grace: 60},
			}, "strategy: evict")
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Empty(t, pooler.Escort.AbortedDetail, "%+v", pooler.Escort)
			require.Less(t, pooler.GoneAt.Sub(report.StartedAt), stuckAfter)
			requireNoneAborted(t, p.finish())
		})
	}
}
