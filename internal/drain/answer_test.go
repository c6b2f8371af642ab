package drain

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Half of the time that is left is for a second request. Near the deadline there is no second one.
func TestAnswerBy_NearTheDeadline_LastRequestHasTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]time.Duration{
		time.Minute:            dueTimeout,
		4 * time.Second:        2 * time.Second,
		600 * time.Millisecond: minDueTimeout,
		0:                      minDueTimeout,
	} {
		limits := Limits{StartedAt: now.Add(-time.Hour), Deadline: now.Add(left)}
		require.Equal(t, want, limits.answerBy(now.Add(-time.Second), now).Sub(now), left)
	}
	limits := Limits{StartedAt: now.Add(-time.Hour), Deadline: now.Add(time.Hour)}
	require.Equal(t, time.Minute, limits.answerBy(now.Add(time.Minute), now).Sub(now), "a pod that is not due yet")
}
