package asg

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

// activityCalls returns the number of requests for activities so far.
func activityCalls(server *awstest.Server) (n int) {
	for _, call := range server.Calls() {
		if call.Action == "DescribeScalingActivities" {
			n++
		}
	}
	return n
}

func TestTerminationEnds_Retained_SinceItWasAbandoned(t *testing.T) {
	server, groups, hooks := account(t)
	server.RetainAbandoned(group)
	server.SetTerminationDelay(0)
	event := terminated(t, server)
	ends, err := groups.TerminationEnds(t.Context(), group, instance)
	require.NoError(t, err)
	require.Empty(t, ends, "it has not ended")
	before := time.Now()
	require.NoError(t, hooks.Complete(t.Context(), event, termination.Abandon))
	require.Equal(t, "Terminating:Retained", server.State(instance))
	ends, err = groups.TerminationEnds(t.Context(), group, instance, "i-0000000000000000f")
	require.NoError(t, err)
	require.Len(t, ends, 1, "no activity names the other")
	require.WithinRange(t, ends[instance], before.Add(-time.Second), time.Now())

	terminated(t, server) // again, and it has not ended
	ends, err = groups.TerminationEnds(t.Context(), group, instance)
	require.NoError(t, err)
	require.Empty(t, ends, "the earlier end is not that of the latest termination")
}

// Auto Scaling keeps activities for six weeks, thousands in a busy group. A sweep runs each minute.
func TestTerminationEnds_ManyActivities_FewRequests(t *testing.T) {
	server, groups, hooks := account(t)
	server.RetainAbandoned(group)
	server.SetTerminationDelay(0)
	require.NoError(t, hooks.Complete(t.Context(), terminated(t, server), termination.Abandon))
	end := func(ids ...string) map[string]time.Time {
		ends, err := groups.TerminationEnds(t.Context(), group, ids...)
		require.NoError(t, err)
		return ends
	}
	require.Len(t, end(instance), 1)
	require.Equal(t, 1, activityCalls(server))
	for n := range 600 {
		id := fmt.Sprintf("i-%017x", n)
		server.AddInstance(group, awstest.Instance{ID: id})
		server.Terminate(id)
		server.SetState(id, "")
	}
	require.Empty(t, end(instance), "it is further back than is read")
	require.Equal(t, 1+maxEndedPages, activityCalls(server))
	require.Len(t, end(fmt.Sprintf("i-%017x", 599)), 1)
	require.Equal(t, 2+maxEndedPages, activityCalls(server), "found on the first page")
}
