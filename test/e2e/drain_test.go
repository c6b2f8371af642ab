package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestAnOrdinaryDrain(t *testing.T) {
	s := setScene(t, 3)
	s.AWS.AddBucket(s.group)
	s.function = s.start("autoScalingGroups: [\""+s.group+"\"]\nmode: drain", "QUIESCE_REPORT_BUCKET="+s.group)
	s.deploy("web", 9)
	victim := s.instances[0]
	before := len(s.podsOn(victim))
	require.NotZero(t, before)

	report := s.drain(victim)
	require.Empty(t, report.ErrorType, report.ErrorMessage)
	require.Equal(t, termination.StatusDrained, report.Status)
	require.Equal(t, victim.Node, report.Node)
	require.Len(t, report.Pods, before)
	for _, p := range report.Pods {
		require.Equal(t, drain.Evicted, p.Outcome)
		require.False(t, p.GoneAt.Before(p.EvictedAt))
	}
	require.Empty(t, s.podsOn(victim))
	completions := s.AWS.Completions(victim.ID)
	require.Len(t, completions, 1)
	require.Equal(t, "CONTINUE", completions[0].Result)

	// Those who were not there can see it all.
	told := s.told(victim)
	require.Len(t, told, 2)
	require.Contains(t, told[0], "Normal Draining Draining "+victim.ID+" of group "+s.group)
	require.Contains(t, told[1], "Normal Drained drained in ")
	require.Contains(t, told[1], fmt.Sprintf("%d pods evicted, 0 forced, 0 left; completed with CONTINUE", before))
	kept := s.kept(s.group)
	require.Len(t, kept, 1)
	for key, r := range kept {
		require.Regexp(t, `^lab/\d{4}/\d\d/\d\d/`+victim.ID+`-[0-9T.]+Z\.json$`, key)
		require.Equal(t, report.Report, r)
	}
	require.Equal(t, []float64{1}, s.measured("Drains", "Status", "drained"))
	require.Equal(t, []float64{float64(before)}, s.measured("PodsEvicted"))
	require.Equal(t, []float64{0}, s.measured("PodsForced"))
}
