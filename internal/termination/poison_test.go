package termination

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// A pod that ends the function would keep its node for ever.
func TestUncleanEnds_EachDoesLess_SaysSo(t *testing.T) {
	for ends, effort := range []drain.Effort{
		drain.EffortFull, drain.EffortFull, drain.EffortNoEscorts, drain.EffortMetadata, drain.EffortMetadata,
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.uncleanEnds = ends
			env.node.Add(web("web"), time.Second)
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusDrained, report.Status)
			require.Equal(t, []drain.Effort{effort}, env.efforts)
			require.Equal(t, effort != drain.EffortFull, strings.Contains(report.Reason, "ended uncleanly"), report.Reason)
			require.Equal(t, 1, env.podsGone, "the next invocation need not do less")
		})
	}
}

// A primary is not told to stop earlier because the function had no Lease, or crashed: not before the last moments.
func TestPrimary_UncleanEndsOrNoLease_StaysToTheLastMoments(t *testing.T) {
	for name, change := range map[string]func(*testEnv){
		"unclean ends":  func(env *testEnv) { env.uncleanEnds = uncleanWithoutEscorts },
		"from metadata": func(env *testEnv) { env.uncleanEnds = uncleanOnlyMetadata },
		"no Lease":      func(env *testEnv) { env.failAlways("acquire", errors.New("forbidden")) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env, began := newTestEnv(), time.Now()
				change(env)
				primary := web("pg-0")
				primary.Labels, primary.Grace = map[string]string{"phase": "databases"}, time.Minute
				env.node.Add(primary, 50*time.Second).Add(web("web"), time.Second)
				h := env.handler()
				h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 12*time.Minute
				h.Drainer.Phases = primaryPhases(&primaryEscort{})
				report, err := invoke(t, h)
				require.NoError(t, err)
				require.Equal(t, StatusDrained, report.Status, report.Reason)
				require.Equal(t, []string{"evict app/web", "gone app/web", "evict app/pg-0", "gone app/pg-0"}, env.node.Log())
				require.WithinDuration(t, began.Add(h.Policy.Bounds.MaxDuration-h.Policy.Bounds.CompletionReserve-time.Minute),
					report.Pods[0].EvictedAt, 20*time.Second)
				require.Contains(t, report.Pods[0].Escort.Reason, "its escort does not run")
			})
		})
	}
}

// panickingCluster panics when pods are watched.
type panickingCluster struct{ Kubernetes }

func (panickingCluster) WatchPods(context.Context, drain.Node, drain.Effort) (drain.Cluster, error) {
	panic("a selector that is nil")
}

// A panic would end the process, and with it the drains of other records.
func TestPanic_OneRecord_FailsAloneAndCountsAsUnclean(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, _ := env.withQueue()
		var log bytes.Buffer
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		h.Connect = func(context.Context) (Kubernetes, error) { return panickingCluster{env}, nil }
		other := event
		other.Group = "theirs"
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1"), messageOf(other, "m-2")))
		require.Empty(t, env.kept, "the Lease stays unreleased, so that the end counts as unclean")
		require.Equal(t, 1, strings.Count(log.String(), "panic recovered"))
		require.Contains(t, log.String(), "panickingCluster.WatchPods")
		require.Contains(t, log.String(), "a selector that is nil")
		require.Contains(t, log.String(), `msg="event failed, will retry" instance=i-0abc1234 group=workers-a node="" messageId=m-1 receives=1`)
		require.Less(t, log.Len(), 12<<10)
		sent := len(env.heartbeats)
		time.Sleep(time.Hour)
		require.Len(t, env.heartbeats, sent, "no goroutine is leaked")
	})
}

func TestRetryDelay_NegativeReceives_DoesNotPanic(t *testing.T) {
	require.Positive(t, outcome{err: &Failed{errors.New("no")}}.retryDelay(-1))
	require.GreaterOrEqual(t, outcome{}.retryDelay(-1), heldDelay)
}

// An error of a foreign server can have any length.
func TestReport_LongTexts_AreCut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("watch", errors.New(strings.Repeat("x", 900_000)))
		report, err := invoke(t, env.handler())
		require.LessOrEqual(t, len(report.Reason), drain.MaxText)
		require.LessOrEqual(t, len(err.Error()), drain.MaxText)

		r := Report{Report: drain.Report{Pods: []drain.PodReport{{Reason: strings.Repeat("x", 900_000)}}}}
		require.LessOrEqual(t, len(r.withLists().Pods[0].Reason), drain.MaxText)
	})
}

func TestReport_Version_IsInReportAndFirstLogLine(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h := env.handler()
		var log bytes.Buffer
		h.Log, h.Version, h.Commit = slog.New(slog.NewTextHandler(&log, nil)), "v1.2.3", "0abc123"
		for range 2 {
			report, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, "v1.2.3", report.Version)
			require.Equal(t, "0abc123", report.Commit)
		}
		first, _, _ := strings.Cut(log.String(), "\n")
		require.Contains(t, first, "version=v1.2.3 commit=0abc123")
		require.Equal(t, 1, strings.Count(log.String(), "function started"), "once for each process")
	})
}
