package postgres

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/termination"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/worker/journal"
)

// longestWait returns the longest time between two commits of a worker, beyond its own pace. The workers still work, so most have a
// transaction under way.
func longestWait(workers []journal.Worker) (longest time.Duration) {
	for _, w := range workers {
		longest = max(longest, w.LongestStall-w.Pace)
	}
	return longest
}

// lateLimit is the pauseTimeout of the case whose request is late: long enough for a switchover to begin, and short for a test. Poolers may
// take as long again to be resumed, which is within soon.
const lateLimit = 20 * time.Second

// requestLate holds the request for a switchover up in the network for longer than clients are held, and lets the network go on then. The
// request must not arrive any more: nobody holds clients for it.
func (c *cases) requestLate() {
	release, err := c.patroni.HoldRequests(c.ctx, c.leader)
	require.NoError(c, err)
	again := c.undo(release)
	usual := c.function
	c.function = c.moving(fmt.Sprintf("connectVia: podIP, pauseTimeout: %s", lateLimit))
	report := c.requireHeld(fmt.Sprintf(`"candidate":%q`, c.candidate()), "no other member led within 15s, and Patroni has not answered the request")
	c.function = usual
	require.Positive(c, report.Escort.HeldBackSeconds)
	unsent, err := c.patroni.UnsentTo(c.ctx, c.leader)
	require.NoError(c, err)
	require.Zero(c, unsent, "bytes of a request that would arrive late")
	again()
	c.awaitRenewal() // the loop that would act on a request
	c.requireStayed()
	c.requireNoClientFailed()
}

// poolerFrozen stops the process of a pooler once it is paused. The other pooler's clients go on at once. The frozen one is resumed by hand
// when it runs again.
func (c *cases) poolerFrozen() {
	pods, err := c.DB.PoolerPods(c.ctx)
	require.NoError(c, err)
	frozen, other := pods[0], pods[1]
	processes, err := database.FindProcesses(c.ctx, c.Lab, frozen, "^pgbouncer ")
	require.NoError(c, err)
	reason := fmt.Sprintf("pooler %s/%s stopped answering while it was paused", c.Name, frozen.Name)
	var report termination.SwitchoverReport
	c.until("a hold because "+reason, func() (bool, string) {
		candidate, thaw := c.candidate(), func() {}
		thawCandidate := c.freeze(candidate, patroni.WALReceiver) // so that the last check waits until the pooler is frozen
		var resumed, ended time.Time
		c.during("poolers paused", func() {
			report = c.switchover(c.function, fmt.Sprintf(`"candidate":%q`, candidate))
			ended = time.Now()
		}, func() {
			again, err := processes.Freeze(c.ctx)
			thaw = c.undo(again)
			require.NoError(c, err)
			thawCandidate()
			resumed = c.awaitResumed(other)
		})
		thawCandidate()
		thaw()
		c.Logf("held for %.1f s, the other pooler resumed %s before the end: %s", report.Escort.HeldBackSeconds, ended.Sub(resumed), report.Reason)
		require.Equal(c, termination.StatusHeld, report.Status, "%+v", report)
		c.awaitNothingMarked()
		if !strings.Contains(report.Reason, reason) {
			return false, report.Reason
		}
		require.True(c, resumed.Before(ended), "the other pooler waited for the frozen one")
		return true, ""
	})
	require.Contains(c, report.Reason, fmt.Sprintf("poolers may still be paused: %s/%s", c.Name, frozen.Name))
	c.requireStayed()
	c.requireClientsWork(report)
	if allCases() {
		c.poolerFrozenTooSoon()
	}
}

// poolerFrozenTooSoon stops the process of a pooler whose PAUSE still waits for a transaction, and lets it go on once the other pooler is
// resumed. The function resumes it then, and the transaction lives on.
func (c *cases) poolerFrozenTooSoon() {
	pods, err := c.DB.PoolerPods(c.ctx)
	require.NoError(c, err)
	processes, err := database.FindProcesses(c.ctx, c.Lab, pods[0], "^pgbouncer ")
	require.NoError(c, err)
	connection := c.openTransaction() // at the first pooler
	stop := c.keepBusy(connection)
	var report termination.SwitchoverReport
	c.until("a pause that waits for a transaction", func() (bool, string) {
		done := make(chan struct{})
		go func() { defer close(done); report = c.switchover(c.function, "") }()
		for c.pausedNow() < len(pods) {
			select {
			case <-done:
				return false, report.Reason
			default:
			}
		}
		again, err := processes.Freeze(c.ctx)
		thaw := c.undo(again)
		require.NoError(c, err)
		c.awaitResumed(pods[1])
		thaw()
		<-done
		return true, ""
	})
	c.Logf("held for %.1f s: %s", report.Escort.HeldBackSeconds, report.Reason)
	require.Equal(c, termination.StatusHeld, report.Status, "%+v", report)
	require.Contains(c, report.Reason, "transactions did not end within")
	require.NotContains(c, report.Reason, "may still be paused")
	require.NoError(c, stop())
	c.exec(connection, "COMMIT")
	c.requireStayed()
	c.requireClientsWork(report)
}

// awaitResumed waits until nothing is paused at a pooler, and returns when that was seen.
func (c *cases) awaitResumed(pooler corev1.Pod) time.Time {
	c.Helper()
	c.until(pooler.Name+" is resumed", func() (bool, string) {
		state, err := c.stateOf(urlOf(pooler, "pgbouncer"))
		return err == nil && !state.paused, fmt.Sprintf("%+v %v", state, err)
	})
	return time.Now()
}

// awaitNothingMarked has the function resume what a move has left paused, until nothing is left.
func (c *cases) awaitNothingMarked() {
	c.Helper()
	c.until("all poolers are resumed", func() (bool, string) {
		resumed := c.resume(c.function)
		return resumed.Status == termination.StatusResumed && len(resumed.Clusters) == 0, fmt.Sprintf("%+v", resumed)
	})
}
