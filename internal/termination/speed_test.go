package termination

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// firstEvictionAnswers is how many answers a drain awaits in a row before its first eviction: verify (beside it connect and EC2), lease
// (beside it the node, the hook, the activities and the group), save what is changed, cordon, list the pods. Each of them needs one before
// it, or must come after it in the promised order. The list comes after the cordon, because it tells which pods came after that.
const firstEvictionAnswers = 5

// Each answer of a real network takes some milliseconds. A call too many in this row delays every drain by them.
func TestDrain_SlowAnswers_FirstEvictionAfterShortestRow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.delay = 10 * time.Millisecond
		env.node.Add(web("a"), time.Second)
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, firstEvictionAnswers*env.delay, report.Pods[0].EvictedAt.Sub(began))
	})
}

// What a second delivery asked in vain must not look like an error of AWS.
func TestDrain_SecondDelivery_LogsNoErrorOfAWS(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.heldElsewhere = true
		env.hangs = map[string]bool{"group": true}
		var log bytes.Buffer
		h := env.handler()
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusSkipped, report.Status)
		synctest.Wait()
		require.NotContains(t, log.String(), "level=WARN")
	})
}

func TestDrain_EachLogLine_NamesNodeOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("a"), time.Second)
		var log bytes.Buffer
		h := env.handler()
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Contains(t, log.String(), "node=node-i-0abc1234")
		for line := range strings.Lines(log.String()) {
			require.LessOrEqual(t, strings.Count(line, " node="), 1, line)
		}
	})
}
