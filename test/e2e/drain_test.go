package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestDrain_OrdinaryPods_EvictedAndReported(t *testing.T) {
	s := newFixture(t, 3)
	s.AWS.AddBucket(s.group)
	s.function = s.start("autoScalingGroups: [\""+s.group+"\"]\nmode: drain", "QUIESCE_REPORT_BUCKET="+s.group)
	s.deploy("web", 9)
	target := s.instances[0]
	before := len(s.podsOn(target))
	require.NotZero(t, before)

	report := s.drain(target)
	require.Empty(t, report.ErrorType, report.ErrorMessage)
	require.Equal(t, termination.StatusDrained, report.Status)
	require.Equal(t, target.Node, report.Node)
	require.Len(t, report.Pods, before)
	for _, p := range report.Pods {
		require.Equal(t, drain.Evicted, p.Outcome)
		require.False(t, p.GoneAt.Before(p.EvictedAt))
	}
	require.Empty(t, s.podsOn(target))
	completions := s.AWS.Completions(target.ID)
	require.Len(t, completions, 1)
	require.Equal(t, "CONTINUE", completions[0].Result)

	// Kubernetes events, the archive and the metrics show the drain to people who were not there.
	events := s.nodeEvents(target)
	require.Len(t, events, 2)
	require.Contains(t, events[0], "Normal Draining Draining "+target.ID+" of group "+s.group)
	require.Contains(t, events[1], "Normal Drained drained in ")
	require.Regexp(t, fmt.Sprintf(`%d pods evicted, 0 forced, 0 \w+; completed with CONTINUE`, before), events[1])
	kept := s.archived(s.group)
	require.Len(t, kept, 1)
	for key, r := range kept {
		require.Regexp(t, `^lab/\d{4}/\d\d/\d\d/`+target.ID+`-[0-9T.]+Z-[A-Z2-7]+\.json$`, key)
		require.Equal(t, report.Report, r)
	}
	require.Equal(t, []float64{1}, s.metric("Drains", "Status", "drained"))
	require.Equal(t, []float64{float64(before)}, s.metric("PodsEvicted"))
	require.Equal(t, []float64{0}, s.metric("PodsForced"))
}
