package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestAnOrdinaryDrain(t *testing.T) {
	s := setScene(t, 3)
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
}
