package postgres

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

const (
	// testTimeout bounds a whole test. Most of it is the setup, on a machine that is busy with other packages.
	testTimeout = 10 * time.Minute
	// hangsAfter is the time without a commit after which a worker with transactions of 60 ms counts as hanging: more than a busy machine
	// delays one.
	hangsAfter = 30 * time.Second
	// workerGroups has five workers each: with pgbench's clients, 20 clients.
	workerGroups = 2
	// commits is how many transactions each worker commits before and after a move: some seconds of load.
	commits = 40
	// probeInterval is the time between write probes at a pooler, and loginRetry the shortest time that a pooler waits after one
	// that failed.
	probeInterval = 200 * time.Millisecond
	loginRetry    = "SET server_login_retry = 1"
)

// cluster is what the fixture needs of a database cluster.
type cluster interface {
	Image() string // of its members; has pgbench
	Members(context.Context) ([]corev1.Pod, error)
	LeaderName(context.Context) (string, error)
	NodeOfLeader(context.Context) (string, error)
	Candidate(context.Context) (string, error)
	AwaitStreaming(context.Context) error
}

// fixture is one test's cluster with poolers, workers and pgbench.
type fixture struct {
	*testing.T
	*poolers.Fixture
	ctx     context.Context
	cluster cluster
	pgbench *database.Pgbench
}

// patroniFixture is a fixture with Patroni.
type patroniFixture struct {
	*fixture
	patroni *patroni.Cluster
}

// newFixture makes a fixture with Patroni.
func newFixture(t *testing.T, o patroni.Options) *patroniFixture {
	t.Helper()
	return newFixtureFrom(prepare(t), o)
}

// newFixtureAlone does the same for a test that sees what others pause. No other test runs meanwhile.
func newFixtureAlone(t *testing.T, o patroni.Options) *patroniFixture {
	t.Helper()
	return newFixtureFrom(prepareAlone(t), o)
}

func newFixtureFrom(f *fixture, o patroni.Options) *patroniFixture {
	f.Helper()
	p := &patroniFixture{fixture: f}
	p.setUp(o.Count(), func(l *lab.Lab, d database.Options) (cluster, *database.Database, error) {
		o.Namespace, o.Base, o.Group = d.Namespace, d.Base, d.Group
		made, err := patroni.Deploy(p.ctx, l, o)
		if err != nil {
			return nil, nil, err
		}
		p.patroni = made
		return made, made.Database, nil
	})
	return p
}

// prepare makes a fixture without anything. It waits for a slot, which the test has until its end.
func prepare(t *testing.T) *fixture {
	t.Helper()
	lab.RequireMachines(t)
	t.Parallel()
	clusterSlots <- struct{}{}
	t.Cleanup(func() { <-clusterSlots })
	return prepareAlone(t)
}

// prepareAlone does the same, but other tests wait.
func prepareAlone(t *testing.T) *fixture {
	t.Helper()
	lab.RequireMachines(t)
	require.NoError(t, sharedErr)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return &fixture{T: t, ctx: ctx}
}

// setUp deploys a cluster and its clients. The target is the leader's instance. The group has one node more than members: a drained member
// starts there again.
func (p *fixture) setUp(members int, deploy func(*lab.Lab, database.Options) (cluster, *database.Database, error)) {
	p.Helper()
	began := time.Now()
	set, err := poolers.SetUp(p.ctx, shared, poolers.Options{
		Name: fmt.Sprintf("postgres-%d", testCount.Add(1)), WorkerGroups: workerGroups, Nodes: members + 1,
		Deploy: func(_ context.Context, l *lab.Lab, d database.Options) (db *database.Database, err error) {
			p.cluster, db, err = deploy(l, d)
			return db, err
		},
		NodeOfTarget: func(ctx context.Context) (string, error) { return p.cluster.NodeOfLeader(ctx) },
	})
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, set.TearDown(context.WithoutCancel(p.ctx))) })
	p.Fixture = set
	p.Cleanup(p.logState)
	p.pgbench, err = p.DB.StartPgbench(p.ctx, p.cluster.Image())
	require.NoError(p, err)
	require.NoError(p, p.AwaitCommits(p.ctx, commits))
	require.NoError(p, p.cluster.AwaitStreaming(p.ctx)) // although pgbench has just filled its tables
	require.NoError(p, p.ResetStalls(p.ctx))
	p.Logf("the cluster and its clients work after %s", time.Since(began).Round(time.Second))
}

// allowMore gives a test more time after its setup.
func (p *fixture) allowMore(limit time.Duration) {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), limit)
	p.Cleanup(cancel)
	p.ctx = ctx
}

// logState logs the pods of a failed test, and what the members say.
func (p *fixture) logState() {
	if !p.Failed() {
		return
	}
	ctx := context.WithoutCancel(p.ctx)
	members, err := p.cluster.Members(ctx)
	p.Logf("the members at the end: %s %v", database.Describe(members), err)
	pods, err := p.DB.PoolerPods(ctx)
	p.Logf("the poolers at the end: %s %v", database.Describe(pods), err)
	for _, pod := range append(members, pods...) {
		said, err := p.Lab.Kubectl(ctx, "--namespace", p.Name, "logs", pod.Name, "--tail=60")
		p.Logf("the log of %s: %s %v", pod.Name, said, err)
	}
}

// consoles opens the consoles of all poolers, and makes them try again soon after a failed login.
func (p *fixture) consoles() (consoles []*pgconn.PgConn) {
	p.Helper()
	for _, url := range p.poolers("pgbouncer") {
		console, err := pgconn.Connect(p.ctx, url)
		require.NoError(p, err)
		p.Cleanup(func() { _ = console.Close(context.WithoutCancel(p.ctx)) })
		consoles = append(consoles, console)
	}
	p.tell(consoles, loginRetry)
	return consoles
}

// underPause pauses the database at all poolers, moves the primary, and resumes when every pooler can write to the new one.
func (p *fixture) underPause(move func()) {
	p.Helper()
	consoles := p.consoles()
	began := time.Now()
	p.tell(consoles, "PAUSE postgres")
	paused := time.Now()
	move()
	moved := time.Now()
	p.awaitWrites(consoles)
	p.tell(consoles, "RESUME postgres")
	p.Logf("paused after %s, moved after %s, resumed after %s", paused.Sub(began), moved.Sub(began), time.Since(began))
}

// poolers returns the URL of a database at each pooler, for the admin.
func (p *fixture) poolers(name string) (urls []string) {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	for _, pod := range pods {
		urls = append(urls, urlOf(pod, name))
	}
	return urls
}

// urlOf returns the URL of a database at a pooler, for the admin.
func urlOf(pooler corev1.Pod, name string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable",
		database.AdminUser, database.AdminPassword, pooler.Status.PodIP, database.Port, name)
}

// tell sends a command to consoles, and waits until each has answered.
func (p *fixture) tell(consoles []*pgconn.PgConn, command string) {
	p.Helper()
	for _, console := range consoles {
		_, err := console.Exec(p.ctx, command).ReadAll()
		require.NoError(p, err, command)
	}
}

// switchOver asks the leader to switch over to a replica, and returns when the Service leads to the new leader.
func (p *patroniFixture) switchOver(candidate string) {
	p.Helper()
	leader, err := p.patroni.LeaderName(p.ctx)
	require.NoError(p, err)
	p.until("a switchover to "+candidate, func() (bool, string) { // Patroni refuses a candidate that it does not reach within two seconds
		answer, err := p.patroni.Switchover(p.ctx, leader, candidate)
		require.NoError(p, err)
		now, err := p.patroni.LeaderName(p.ctx)
		return answer.Code == http.StatusOK || err == nil && now == candidate, answer.Text
	})
	next, err := p.patroni.AwaitLeader(p.ctx, leader)
	require.NoError(p, err)
	require.Equal(p, candidate, next)
	require.NoError(p, p.patroni.AwaitService(p.ctx, next))
}

func (p *fixture) exec(connection *pgconn.PgConn, sql string) {
	p.Helper()
	_, err := connection.Exec(p.ctx, sql).ReadAll()
	require.NoError(p, err, sql)
}

// awaitWrites waits until every pooler can write, as shown by the alias, which no PAUSE of the database holds. A connection that a late node
// proxy led to the old primary would serve every later probe.
func (p *fixture) awaitWrites(consoles []*pgconn.PgConn) {
	p.Helper()
	for n, url := range p.poolers(patroni.Alias) {
		for {
			err := p.write(url)
			if err == nil {
				break
			}
			p.tell(consoles[n:n+1], "RECONNECT "+patroni.Alias)
			require.NoError(p, poolers.Wait(p.ctx, probeInterval), "the last probe: %v", err)
		}
	}
}

func (p *fixture) write(url string) error {
	connection, err := pgconn.Connect(p.ctx, url)
	if err != nil {
		return err
	}
	defer connection.Close(context.WithoutCancel(p.ctx))
	_, err = connection.Exec(p.ctx, "SELECT pg_logical_emit_message(true, 'quiesce', '')").ReadAll()
	return err
}

// requireNoClientFailed requires that each client commits, and that none has failed so far.
func (p *fixture) requireNoClientFailed() {
	p.Helper()
	require.NoError(p, p.AwaitCommits(p.ctx, rowCommits))
	now, err := p.Snapshot(p.ctx)
	require.NoError(p, err)
	for _, w := range now.Workers {
		require.Zero(p, len(w.Aborted)+len(w.Ambiguous)+len(w.Skipped)+w.ConnectErrors, "worker %d: %s", w.Worker, w.LastError)
	}
	aborted, err := p.pgbench.Aborted(p.ctx)
	require.NoError(p, err)
	require.Zero(p, aborted, "clients of pgbench that gave up")
}

// requireNothingFailed stops all clients, and requires that no transaction failed and that the primary has every one that a client saw
// committed, once.
func (p *fixture) requireNothingFailed() {
	p.Helper()
	require.NoError(p, p.AwaitCommits(p.ctx, commits))
	results, err := p.Finish(p.ctx, hangsAfter)
	require.NoError(p, err)
	bench, err := p.pgbench.Finish(p.ctx)
	require.NoError(p, err)
	p.Logf("workers: %+v, longest stall %s; pgbench: %d transactions", results.Comparison, results.LongestStall().Round(time.Millisecond), bench.Processed)
	require.Empty(p, results.Hanging, results.Errors())
	require.Zero(p, results.Interrupted(), "%+v %s", results.Comparison, results.Errors())
	require.Zero(p, results.Inconsistent(), "%+v", results.Comparison)
	require.Zero(p, results.Refused()+results.Closed(), results.Errors())
	require.Zero(p, bench.Failed+bench.Aborted, bench.Log)
	require.Equal(p, bench.Processed, bench.Rows, "rows of pgbench's transactions")
}

// requireClientsFailed stops all clients, and requires that some saw errors, and that the primary even so has every transaction that a
// client saw committed, once.
func (p *fixture) requireClientsFailed() {
	p.Helper()
	results, bench := p.finishFailed()
	require.Zero(p, results.Inconsistent(), "%+v", results.Comparison)
	require.GreaterOrEqual(p, bench.Rows, bench.Processed, "rows of pgbench's transactions")
}

// finishFailed stops all clients, and requires that some saw errors.
func (p *fixture) finishFailed() (poolers.Results, database.PgbenchResult) {
	p.Helper()
	require.NoError(p, p.AwaitCommits(p.ctx, commits))
	results, err := p.Finish(p.ctx, hangsAfter)
	require.NoError(p, err)
	bench, err := p.pgbench.Finish(p.ctx)
	require.NoError(p, err)
	p.Logf("workers: %+v, refused %d, closed %d, longest stall %s; pgbench: %d clients aborted",
		results.Comparison, results.Refused(), results.Closed(), results.LongestStall().Round(time.Millisecond), bench.Aborted)
	require.Positive(p, bench.Failed+bench.Aborted+results.Refused()+results.Closed()+results.Interrupted(), bench.Log)
	return results, bench
}

// newFunction starts a function for the fixture's group, with these further settings.
func (p *fixture) newFunction(settings string) *env.Function {
	p.Helper()
	function, err := p.Function(context.Background(), fmt.Sprintf("autoScalingGroups: [%s]\nmode: drain\n", p.Name)+settings)
	require.NoError(p, err)
	p.Cleanup(func() {
		require.NoError(p, function.Close())
		if p.Failed() {
			p.Logf("the function's log:\n%s", function.Output())
		}
	})
	return function
}
