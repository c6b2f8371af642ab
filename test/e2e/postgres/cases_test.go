package postgres

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
)

const (
	// casesTimeout bounds all cases of one cluster. The longest of them take a minute or two on a busy machine.
	casesTimeout = 25 * time.Minute
	// soon is far less than the limit of these tests, for which clients would wait if nobody resumed, and far more than a pause that is
	// given up takes: ten seconds for transactions, three for the last check, on a busy machine.
	soon = 40 * time.Second
	// waitBeyond is how much longer than the pause a client may wait: what the table of the issue allows.
	waitBeyond = 10 * time.Second
	// rowCommits is how many transactions each worker commits after each case.
	rowCommits = 10
	// pauseLimit is how long clients may be held where that is not what is tested.
	pauseLimit = "pauseTimeout: 90s"
)

// allCases reports whether the cases that take minutes are requested: CASES=all, as `make soak` sets it.
func allCases() bool { return os.Getenv("CASES") == "all" }

// What can keep a primary from moving, or disturb its move, on one cluster: each is held with its reason, or moves. Clients go on at
// once, none of their transactions fails, and none is lost.
func TestCases_OneCluster_HeldOrMoved(t *testing.T) {
	p := newCases(t, patroni.Options{Version: "4.0", Endpoints: true, Poolers: database.Options{Version: "1.24"}}, "connectVia: podIP")
	// Patroni's own limit is 1 MiB, which a replica of a busy cluster may exceed for a moment.
	require.NoError(t, p.patroni.Configure(p.ctx, map[string]any{"maximum_lag_on_failover": 16 << 20}))
	for _, row := range []struct {
		name string
		run  func(*cases)
	}{
		{name: "candidate receives nothing", run: (*cases).candidateReceivesNothing},
		{name: "candidate's Patroni frozen", run: (*cases).candidateFrozen},
		{name: "request refused", run: (*cases).requestRefused},
		{name: "request late", run: (*cases).requestLate},
		{name: "transaction open and quiet", run: (*cases).quietTransaction},
		{name: "transaction open and busy", run: (*cases).busyTransaction},
		{name: "switchover scheduled by patronictl", run: (*cases).otherActor},
		{name: "stale leader", run: (*cases).staleLeader},
		{name: "a pooler without a console", run: (*cases).mutePooler},
		{name: "a pooler that stops answering while paused", run: (*cases).poolerFrozen},
		{name: "direct writers", run: (*cases).directWriters},
		{name: "candidate dies after the request", run: (*cases).candidateDies},
		{name: "two of three members on leaving nodes", run: (*cases).twoNodesLeave},
	} {
		if !t.Run(row.name, func(t *testing.T) { row.run(p.begin(t)) }) {
			return // the others would only fail as well
		}
	}
	p.requireNothingFailed()
}

// Both members of a cluster are on nodes that leave. The replica moves first, to a node that stays. Then it becomes the primary.
func TestCases_BothMembersLeave_NothingFails(t *testing.T) {
	p := newCases(t, patroni.Options{Version: "4.0", Members: 2, Poolers: database.Options{Version: "1.18"}}, "connectVia: podIP")
	more, err := p.Acquire(p.ctx, p.Name, 1) // the members need two other nodes
	require.NoError(t, err)
	p.Nodes = append(p.Nodes, more...)
	c := p.begin(t)
	for _, report := range c.drainAtOnce([]string{c.leader, c.candidate()}) {
		require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	}
	now, err := c.cluster.NodeOfLeader(c.ctx)
	require.NoError(t, err)
	i := slices.IndexFunc(c.Nodes, func(i env.Instance) bool { return i.Node == now })
	require.Equal(t, "InService", c.AWS.State(c.Nodes[i].ID))
	c.requireNothingPaused()
	c.requireNothingFailed()
}

// Somebody else asks the leader for another candidate while poolers are being paused. One switchover happens, or quiesce holds the primary
// and names the other: then clients see the other's switchover. No acknowledged write is lost in either case.
func TestCases_OtherActorAtOnce_OneSwitchover(t *testing.T) {
	p := newCases(t, patroni.Options{Version: "4.0", Poolers: database.Options{Version: "1.18"}}, "connectVia: podIP")
	c := p.begin(t)
	before, err := c.patroni.Transitions(c.ctx)
	require.NoError(t, err)
	var report termination.SwitchoverReport
	var answer patroni.Answer
	ours, other := c.replicas()[0], c.replicas()[1]
	c.until("a pause", func() (bool, string) {
		return c.during("poolers paused", func() { report = c.switchover(c.function, fmt.Sprintf(`"candidate":%q`, ours)) },
			func() { answer, err = c.patroni.Switchover(c.ctx, c.leader, other) }), report.Reason
	})
	require.NoError(t, err)
	t.Logf("quiesce, which wanted %s: %+v; the other, who wanted %s: %+v", ours, report, other, answer)
	if report.Status != termination.StatusMoved {
		require.Regexp(t, "has been requested|the leader changed|refused|answer 503|does not say how far it has written", report.Reason)
	}
	c.requireMoved(c.leader)
	after, err := c.patroni.Transitions(c.ctx)
	require.NoError(t, err)
	require.Equal(t, before+1, after)
	c.requireNothingPaused()
	c.requireNothingLostAtEnd()
}

// cases is a cluster on which one case follows the other.
type cases struct {
	*patroniFixture
	function *env.Function
	leader   string // when the case began
}

// newCases makes a fixture with a function whose escort of primaries has these settings.
func newCases(t *testing.T, o patroni.Options, settings string) *cases {
	t.Helper()
	c := &cases{patroniFixture: newFixture(t, o)}
	c.allowMore(casesTimeout)
	c.function = c.moving(settings + ", " + pauseLimit)
	return c
}

// begin returns the fixture for one case, when the cluster is as it should be.
func (c *cases) begin(t *testing.T) *cases {
	t.Helper()
	f := *c.fixture
	f.T = t
	row := &cases{patroniFixture: &patroniFixture{fixture: &f, patroni: c.patroni}, function: c.function}
	require.NoError(t, row.cluster.AwaitStreaming(row.ctx))
	require.NoError(t, row.ResetStalls(row.ctx))
	var err error
	row.leader, err = row.cluster.LeaderName(row.ctx)
	require.NoError(t, err)
	return row
}

// candidate returns a replica that may become the leader.
func (c *cases) candidate() string {
	c.Helper()
	name, err := c.cluster.Candidate(c.ctx)
	require.NoError(c, err)
	return name
}

// replicas returns the members that do not lead.
func (c *cases) replicas() (names []string) {
	c.Helper()
	members, err := c.cluster.Members(c.ctx)
	require.NoError(c, err)
	for _, m := range members {
		if m.Name != c.leader {
			names = append(names, m.Name)
		}
	}
	return names
}

// requireHeld asks for a switchover until it is held for this reason. Whatever else may hold it for a moment, it must not move.
func (c *cases) requireHeld(more, reason string) (report termination.SwitchoverReport) {
	c.Helper()
	c.until("a hold because of "+reason, func() (bool, string) {
		report = c.switchover(c.function, more)
		c.Logf("held for %.1f s: %s", report.Escort.HeldBackSeconds, report.Reason)
		require.Equal(c, termination.StatusHeld, report.Status, "%+v", report)
		require.Less(c, report.Escort.HeldBackSeconds, soon.Seconds())
		return regexp.MustCompile(reason).MatchString(report.Reason), report.Reason
	})
	c.requireStayed()
	c.requireClientsWork(report)
	return report
}

// requireStayed requires that the leader is the same as when the case began.
func (c *cases) requireStayed() {
	c.Helper()
	now, err := c.cluster.LeaderName(c.ctx)
	require.NoError(c, err)
	require.Equal(c, c.leader, now)
}

// requireSwitchover asks for a switchover until it happens.
func (c *cases) requireSwitchover() (report termination.SwitchoverReport) {
	c.Helper()
	c.until("a switchover", func() (bool, string) {
		report = c.switchover(c.function, "")
		return report.Status == termination.StatusMoved, report.Reason
	})
	c.Logf("%+v", report.Escort)
	c.requireMoved(c.leader)
	c.requireClientsWork(report)
	return report
}

// requireClientsWork requires that nothing is paused, that each client commits, that none has failed, and that none waited much longer than
// poolers were paused.
func (c *cases) requireClientsWork(report termination.SwitchoverReport) {
	c.Helper()
	c.requireNothingPaused()
	c.requireNoClientFailed()
	now, err := c.Snapshot(c.ctx)
	require.NoError(c, err)
	paused := time.Duration(report.Escort.HeldBackSeconds * float64(time.Second))
	longest := longestWait(now.Workers)
	c.Logf("paused for %s, longest wait %s", paused.Round(time.Millisecond), longest.Round(time.Millisecond))
	require.Less(c, longest, max(paused, soon)+waitBeyond)
}

// requireNothingLostAtEnd stops all clients, and requires that the primary has every transaction that a client saw committed, once.
func (c *cases) requireNothingLostAtEnd() {
	c.Helper()
	require.NoError(c, c.AwaitCommits(c.ctx, commits))
	results, err := c.Finish(c.ctx, hangsAfter)
	require.NoError(c, err)
	bench, err := c.pgbench.Finish(c.ctx)
	require.NoError(c, err)
	c.Logf("workers: %+v, refused %d, closed %d; pgbench: %d clients aborted", results.Comparison, results.Refused(), results.Closed(), bench.Aborted)
	require.Zero(c, results.Inconsistent(), "%+v", results.Comparison)
	require.GreaterOrEqual(c, bench.Rows, bench.Processed, "rows of pgbench's transactions")
}

// freeze stops processes of a member until the case ends, or thaw is called.
func (c *cases) freeze(member, pattern string) (thaw func()) {
	c.Helper()
	processes, err := c.patroni.Processes(c.ctx, member, pattern)
	require.NoError(c, err)
	again, err := processes.Freeze(c.ctx)
	require.NoError(c, err)
	return c.undo(again)
}

// undo has something undone when the case ends, unless the returned function does so before.
func (c *cases) undo(undo func(context.Context) error) func() {
	undone := false
	once := func() {
		if !undone {
			undone = true
			require.NoError(c, undo(context.WithoutCancel(c.ctx)))
		}
	}
	c.Cleanup(once)
	return once
}

// openTransaction begins a transaction through a pooler. The case's end closes it.
func (c *cases) openTransaction() *pgconn.PgConn {
	c.Helper()
	pods, err := c.DB.PoolerPods(c.ctx)
	require.NoError(c, err)
	connection, err := pgconn.Connect(c.ctx, fmt.Sprintf("postgres://worker:worker@%s:%d/postgres?sslmode=disable",
		pods[0].Status.PodIP, database.Port))
	require.NoError(c, err)
	c.Cleanup(func() { _ = connection.Close(context.WithoutCancel(c.ctx)) })
	c.exec(connection, "BEGIN; SELECT pg_current_xact_id()")
	return connection
}
