package termination

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An unreachable cluster must not let the hook run out, nor keep the instance for ever.
func TestUnreachableCluster_AtDeadline_OnFailureDecides(t *testing.T) {
	for _, step := range []string{"connect", "acquire"} {
		synctest.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.failAlways(step, errors.New("no route to host"))
			h := env.handler()
			report, err := invoke(t, h)
			require.ErrorContains(t, err, "no route to host")
			require.Equal(t, StatusFailed, report.Status)
			require.Len(t, env.heartbeats, 1, "the next try has the hook's whole timeout to come")
			require.Empty(t, env.completed)

			late, now := event, time.Now()
			late.Began = now.Add(-time.Hour)
			_, err = deliver(t, h, Record{Termination: &late, FirstReceived: now})
			require.ErrorContains(t, err, "no route to host", "it has just come, and has two minutes")
			for _, seen := range []time.Time{now.Add(-time.Hour), {}} {
				env.completed = nil
				report, err = deliver(t, h, Record{Termination: &late, FirstReceived: seen})
				require.NoError(t, err)
				require.Equal(t, StatusFailed, report.Status)
				require.Contains(t, report.Reason, "no route to host")
				require.Equal(t, []Result{Abandon}, env.completed)
			}
		})
	}
}
