package asg

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

// every collects the groups of these names, and how often there was none to be had.
func every(ctx context.Context, groups *Groups, names ...string) (found []string, faults int) {
	for g, err := range groups.List(ctx, names...) {
		if err != nil {
			faults++
			continue
		}
		found = append(found, g.Name)
	}
	return found, faults
}

// describes are the requests for groups so far.
func describes(server *awstest.Server) (n int) {
	for _, call := range server.Calls() {
		if call.Action == "DescribeAutoScalingGroups" {
			n++
		}
	}
	return n
}

// A sweep comes each minute, and Auto Scaling counts the account's requests: 500 groups are as many as an account may have.
func TestAFleetIsDescribedInAsFewRequestsAsPossible(t *testing.T) {
	server, groups, _ := account(t)
	var names []string
	for n := range 499 {
		names = append(names, fmt.Sprint("batch-", n))
		server.AddGroup(names[n])
	}
	found, faults := every(t.Context(), groups)
	require.Len(t, found, 500)
	require.Zero(t, faults)
	require.Equal(t, 5, describes(server))

	found, faults = every(t.Context(), groups, names...)
	require.Len(t, found, 499)
	require.Zero(t, faults)
	require.Equal(t, 10, describes(server))
}

func TestAGroupIsDescribedWithItsInstances(t *testing.T) {
	server, groups, _ := account(t)
	terminated(t, server)
	for g, err := range groups.List(t.Context(), group, "unknown") {
		require.NoError(t, err)
		require.Equal(t, termination.Group{
			Name: group, Instances: []termination.Instance{{ID: instance, Zone: "eu-west-1a", State: "Terminating:Wait"}},
		}, g)
	}
}

func TestGroupsThatCannotBeDescribedDoNotHideTheOthers(t *testing.T) {
	server, groups, _ := account(t)
	names := []string{group}
	for n := range 100 {
		names = append(names, fmt.Sprint("batch-", n))
		server.AddGroup(names[n+1])
	}
	server.Fail("autoscaling", "DescribeAutoScalingGroups", awstest.Fault{
		Times: 1, Code: http.StatusBadRequest, ErrorCode: "AccessDenied", Message: "not authorized",
	})
	found, faults := every(t.Context(), groups, names...)
	require.Equal(t, []string{"batch-99"}, found)
	require.Equal(t, 1, faults)
}

func TestWhoeverHasSeenEnoughGroupsAsksForNoMore(t *testing.T) {
	server, groups, _ := account(t)
	for n := range 300 {
		server.AddGroup(fmt.Sprint("batch-", n))
	}
	for range groups.List(t.Context()) {
		break
	}
	require.Equal(t, 1, describes(server))
}

func TestItIsKnownWhenTheActivitiesUnderWayBegan(t *testing.T) {
	server, groups, _ := account(t)
	server.AddInstance(group, awstest.Instance{ID: "i-0fed"})
	server.AddInstance(group, awstest.Instance{ID: "i-0123456789abcdef1"})
	server.Terminate("i-0123456789abcdef1")
	server.SetState("i-0123456789abcdef1", "")
	before := time.Now()
	event := terminated(t, server)
	began, err := groups.ActivityStarts(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, began, 1, "that of the instance which is gone is over")
	require.WithinRange(t, began[instance], before.Add(-time.Second), time.Now())
	require.WithinDuration(t, event.Began, began[instance], time.Second, "which is what the event says")

	_, err = groups.ActivityStarts(t.Context(), "theirs")
	require.ErrorContains(t, err, "describe the activities of theirs")
}

// A group's activities of six weeks are kept. Those that are over are not read.
func TestOnlyActivitiesUnderWayAreRead(t *testing.T) {
	server, groups, _ := account(t)
	for n := range 150 {
		id := fmt.Sprintf("i-%017x", n)
		server.AddInstance(group, awstest.Instance{ID: id})
		server.Terminate(id)
		if n > 2 {
			server.SetState(id, "")
		}
	}
	began, err := groups.ActivityStarts(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, began, 3)
	pages := 0
	for _, call := range server.Calls() {
		if call.Action == "DescribeScalingActivities" {
			pages++
		}
	}
	require.Equal(t, 1, pages)
}

func TestASpotInstanceIsKnownAsOne(t *testing.T) {
	server, groups, _ := account(t)
	server.AddInstance(group, awstest.Instance{ID: "i-0fedcba9876543210", Spot: true})
	machines, err := groups.EC2Instances(t.Context(), instance, "i-0fedcba9876543210")
	require.NoError(t, err)
	require.False(t, machines[instance].Spot)
	require.True(t, machines["i-0fedcba9876543210"].Spot)
}
