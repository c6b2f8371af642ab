package postgres

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
)

// quietTime is longer than an open transaction may be quiet when poolers are paused; with CASES=all, as long as the issue has it.
func quietTime() time.Duration {
	if allCases() {
		return 2 * time.Minute
	}
	return 7 * time.Second
}

// candidateReceivesNothing stops the process that receives the leader's log. Patroni itself still calls the member a streaming replica:
// only the last check, under the pause, can see it.
func (c *cases) candidateReceivesNothing() {
	candidate := c.candidate()
	thaw := c.freeze(candidate, patroni.WALReceiver)
	report := c.requireHeld(fmt.Sprintf(`"candidate":%q`, candidate), "did not catch up while clients waited")
	require.Positive(c, report.Escort.HeldBackSeconds)
	thaw()
}

func (c *cases) candidateFrozen() {
	candidate := c.candidate()
	thaw := c.freeze(candidate, patroni.PatroniProcess)
	c.requireHeld(fmt.Sprintf(`"candidate":%q`, candidate), candidate+": it does not say its position in the log")
	thaw()
}

// requestRefused keeps the leader from seeing the candidate, which the function does see. Patroni says so when it is asked over HTTP, and
// discards a request in its object.
func (c *cases) requestRefused() {
	candidate := c.candidate()
	mend, err := c.patroni.CutREST(c.ctx, c.leader, candidate)
	require.NoError(c, err)
	again := c.undo(mend)
	report := c.requireHeld(fmt.Sprintf(`"candidate":%q`, candidate), "refused: Patroni answered 412: ")
	require.Positive(c, report.Escort.HeldBackSeconds)
	if allCases() {
		overHTTP := c.function
		c.function = c.moving("connectVia: portForward, " + pauseLimit)
		c.requireHeld(fmt.Sprintf(`"candidate":%q`, candidate), "refused: Patroni discarded the request")
		c.function = overHTTP
	}
	again()
}

// quietTransaction leaves a transaction open and idle: clients are not even paused.
func (c *cases) quietTransaction() {
	connection := c.openTransaction()
	require.NoError(c, poolers.Wait(c.ctx, quietTime()))
	report := c.requireHeld("", "a transaction of database postgres has been open for .* or more at pooler")
	require.Zero(c, report.Escort.HeldBackSeconds)
	c.exec(connection, "ROLLBACK")
}

// busyTransaction leaves a transaction open that looks young, because its client is busy. It ends the pause, and lives on.
func (c *cases) busyTransaction() {
	connection := c.openTransaction()
	stop := c.keepBusy(connection)
	report := c.requireHeld("", "transactions did not end within")
	require.Positive(c, report.Escort.HeldBackSeconds)
	require.NoError(c, stop())
	c.exec(connection, "COMMIT")
}

// keepBusy sends queries over a connection until stop is called, which returns the first error.
func (c *cases) keepBusy(connection *pgconn.PgConn) (stop func() error) {
	end, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-end:
				stopped <- nil
				return
			case <-time.After(500 * time.Millisecond):
				if _, err := connection.Exec(c.ctx, "SELECT 1").ReadAll(); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	return func() error {
		close(end)
		return <-stopped
	}
}

// otherActor has somebody else schedule a switchover. quiesce leaves that alone.
func (c *cases) otherActor() {
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	said, err := c.patroni.Control(c.ctx, c.leader, "switchover", c.patroni.Scope(), "--leader", c.leader, "--candidate", c.candidate(),
		"--scheduled", at, "--force")
	require.NoError(c, err, said)
	report := c.requireHeld("", "a switchover from "+c.leader+" to .* has been requested")
	require.Zero(c, report.Escort.HeldBackSeconds)
	said, err = c.patroni.Control(c.ctx, c.leader, "flush", c.patroni.Scope(), "switchover", "--force")
	require.NoError(c, err, said)
}

// staleLeader stops Patroni in all members. PostgreSQL goes on. The leader stops last, while it waits for its next loop, and goes on first:
// otherwise the replicas would elect another.
func (c *cases) staleLeader() {
	c.awaitRenewal()
	var frozen []func()
	for _, name := range c.replicas() {
		frozen = append(frozen, c.freeze(name, patroni.PatroniProcess))
	}
	thaw := c.freeze(c.leader, patroni.PatroniProcess) // undone first at the end of a failed case
	report := c.requireHeld("", "the leader "+c.leader+" last renewed its key .* ago, more than its time to live of")
	require.Zero(c, report.Escort.HeldBackSeconds)
	thaw()
	c.awaitRenewal()
	for _, thaw := range frozen {
		thaw()
	}
}

// awaitRenewal waits until the leader has renewed its key once more, and its loop has done the rest of its work.
func (c *cases) awaitRenewal() {
	c.Helper()
	before, err := c.patroni.RenewTime(c.ctx)
	require.NoError(c, err)
	c.until("the leader's next loop", func() (bool, string) {
		now, err := c.patroni.RenewTime(c.ctx)
		return err == nil && now != before, fmt.Sprint(now, err)
	})
	require.NoError(c, poolers.Wait(c.ctx, time.Second))
}

// mutePooler adds a pooler that nobody can pause: no console listens. The others are paused, and the report says so.
func (c *cases) mutePooler() {
	pods := c.Lab.Client().CoreV1().Pods(c.Name)
	now := int64(0)
	_, err := pods.Create(c.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "mute", Labels: labels.Set{"app": "mute"},
			Annotations: map[string]string{"quiesce/escort": "pgbouncer", "quiesce/database": c.patroni.Scope()},
		},
		Spec: corev1.PodSpec{
			NodeName: c.Base.Node, TerminationGracePeriodSeconds: &now,
			Containers: []corev1.Container{{
				Name: "pgbouncer", Image: "localhost/pgbouncer:" + c.DB.Version, ImagePullPolicy: corev1.PullNever,
				Command: []string{"sleep", "infinity"},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(c, err)
	defer func() { require.NoError(c, pods.Delete(c.ctx, "mute", metav1.DeleteOptions{GracePeriodSeconds: &now})) }()
	_, err = database.AwaitReady(c.ctx, c.Lab, c.Name, labels.Set{"app": "mute"}, 1)
	require.NoError(c, err)
	report := c.requireSwitchover()
	require.Contains(c, report.Escort.Reason, "2 of 3 poolers held")
	require.Contains(c, report.Escort.Reason, "pooler "+c.Name+"/mute not held: no console")
}

// directWriters adds workers that connect past the poolers. They see the switchover. None of their commits is lost.
func (c *cases) directWriters() {
	const count = 5
	writers, err := c.DB.StartWorkers(c.ctx, count, "-hold=60ms", "-think=20ms",
		"-url=postgres://postgres@${"+strings.ToUpper(strings.ReplaceAll(c.patroni.Scope(), "-", "_"))+"_SERVICE_HOST}:5432/postgres?sslmode=disable")
	require.NoError(c, err)
	c.awaitDirectCommits(writers)
	c.requireSwitchover()
	c.awaitDirectCommits(writers)
	require.NoError(c, writers.Stop(c.ctx))
	var last journal.Snapshot
	c.until("the direct writers stop", func() (bool, string) {
		last, err = writers.Snapshot(c.ctx)
		require.NoError(c, err)
		busy := 0
		for _, w := range last.Workers {
			if w.State != journal.Stopped {
				busy++
			}
		}
		return busy == 0, fmt.Sprintf("%d work", busy)
	})
	c.requireNothingLost(last.Workers)
}

// awaitDirectCommits waits until each of these workers has committed some more transactions.
func (c *cases) awaitDirectCommits(writers *database.WorkerGroup) {
	c.Helper()
	first, err := writers.Snapshot(c.ctx)
	require.NoError(c, err)
	c.until("direct commits", func() (bool, string) {
		now, err := writers.Snapshot(c.ctx)
		require.NoError(c, err)
		for i, w := range now.Workers {
			if w.Committed < first.Workers[i].Committed+rowCommits {
				return false, fmt.Sprintf("worker %d has %d commits: %s", w.Worker, w.Committed, w.LastError)
			}
		}
		return true, ""
	})
}

// requireNothingLost compares workers that have stopped with the database, and removes their rows: the fixture does not know them.
func (c *cases) requireNothingLost(workers []journal.Worker) {
	c.Helper()
	all, err := c.DB.Rows(c.ctx)
	require.NoError(c, err)
	rows := map[int][]int64{}
	var numbers []string
	for _, w := range workers {
		rows[w.Worker] = all[w.Worker]
		numbers = append(numbers, strconv.Itoa(w.Worker))
	}
	compared := journal.Compare(workers, rows)
	c.Logf("direct writers: %+v", compared)
	require.Positive(c, compared.Committed)
	require.Zero(c, compared.Lost+compared.Repeated+compared.Unexpected, "%+v", compared)
	_, err = c.DB.Query(c.ctx, "DELETE FROM commits WHERE worker IN ("+strings.Join(numbers, ",")+")")
	require.NoError(c, err)
	_, err = c.Lab.Kubectl(c.ctx, "--namespace", c.Name, "delete", "deployment", "worker-"+numbers[0])
	require.NoError(c, err)
}

// candidateDies kills the candidate as soon as the leader has been asked to switch over to it. If the leader has looked at the candidate
// before, it steps down. Then Patroni takes the third member, or the candidate: its container has started again after two seconds.
// Otherwise the leader stays, and says so.
func (c *cases) candidateDies() {
	candidate := c.candidate()
	var report termination.SwitchoverReport
	before, killed := c.restarts(candidate), false
	c.until("a switchover that is asked for", func() (bool, string) {
		processes, err := c.patroni.Processes(c.ctx, candidate, patroni.AllProcesses)
		require.NoError(c, err)
		asked := c.during("switchover requested", func() { report = c.switchover(c.function, fmt.Sprintf(`"candidate":%q`, candidate)) },
			func() {
				now, err := c.patroni.LeaderName(c.ctx)
				if killed = err != nil || now != candidate; killed { // else this test was slower
					require.NoError(c, processes.Signal(c.ctx, "KILL"))
				}
			})
		return asked, report.Reason
	})
	c.Logf("%+v", report)
	c.until("the end of the candidate that was killed", func() (bool, string) {
		now := c.restarts(candidate)
		return now > before || !killed, fmt.Sprintf("restarts: %d before, %d now", before, now)
	})
	if report.Status == termination.StatusMoved {
		c.requireMoved(c.leader)
	} else {
		require.Equal(c, termination.StatusHeld, report.Status, "%+v", report)
		require.Regexp(c, "answer 503 of Patroni|refused: Patroni answered 412", report.Reason)
		c.requireStayed()
	}
	c.requireClientsWork(report)
}

// restarts counts how often the containers of a member started again.
func (c *cases) restarts(member string) int32 {
	c.Helper()
	pod, err := c.patroni.Member(c.ctx, member)
	require.NoError(c, err)
	return database.Restarts(pod)
}

// during does something as soon as the function has logged a message: while it works, or after it if this test is slower. It reports false if
// the function did not log it.
func (c *cases) during(message string, work, then func()) (logged bool) {
	c.Helper()
	before, done := strings.Count(c.function.Output(), message), make(chan struct{})
	go func() { defer close(done); work() }()
	defer func() { <-done }() // also if then fails: the function must not outlive the case
	for {
		if strings.Count(c.function.Output(), message) > before {
			then()
			return true
		}
		select {
		case <-done:
			if logged = strings.Count(c.function.Output(), message) > before; logged {
				then()
			}
			return logged
		case <-time.After(time.Millisecond):
		}
	}
}

// twoNodesLeave drains the nodes of the leader and of a replica at the same time. A member on a node that stays becomes the primary: the third
// one, or the replica. It is made again on the spare node, and may stream there by then: its base backup keeps the leader where it is.
func (c *cases) twoNodesLeave() {
	leaving := []string{c.leader, c.replicas()[0]}
	var nodes []string
	for _, name := range leaving {
		pod, err := c.patroni.Member(c.ctx, name)
		require.NoError(c, err)
		nodes = append(nodes, pod.Spec.NodeName)
	}
	reports := c.drainAtOnce(leaving)
	for i, report := range reports {
		require.Equal(c, termination.StatusDrained, report.Status, "%+v", report)
		require.Equal(c, drain.Evicted, podOf(c.T, report, leaving[i]).Outcome)
	}
	now, err := c.cluster.NodeOfLeader(c.ctx)
	require.NoError(c, err)
	require.NotContains(c, nodes, now, "the new primary is on a node that leaves")
	name, err := c.cluster.LeaderName(c.ctx)
	require.NoError(c, err)
	require.NotEqual(c, c.leader, name)
	c.requireNothingPaused()
	c.requireNoClientFailed()
}

// drainAtOnce terminates the instances of these members, and drains all of their nodes at the same time.
func (c *cases) drainAtOnce(members []string) []termination.Report {
	c.Helper()
	events := make([]string, len(members))
	functions := make([]*env.Function, len(members))
	for i, name := range members {
		functions[i] = c.moving("connectVia: podIP, " + pauseLimit)
		pod, err := c.patroni.Member(c.ctx, name)
		require.NoError(c, err)
		for _, instance := range c.Nodes {
			if instance.Node == pod.Spec.NodeName {
				events[i] = string(c.AWS.Terminate(instance.ID)[0].Body)
			}
		}
	}
	reports := make([]termination.Report, len(members))
	var group sync.WaitGroup
	for i := range members {
		group.Go(func() { c.invoke(functions[i], []byte(events[i]), &reports[i]) })
	}
	group.Wait()
	for i, report := range reports {
		member := podOf(c.T, report, members[i])
		c.Logf("%s: %s %s %+v, drained in %s", members[i], report.Status, member.Outcome, member.Escort, report.FinishedAt.Sub(report.StartedAt))
	}
	return reports
}
