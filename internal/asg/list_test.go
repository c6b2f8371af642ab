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

// listed returns the names of the listed groups, and the number of errors.
func listed(ctx context.Context, groups *Groups, names ...string) (found []string, errs int) {
	for g, err := range groups.List(ctx, names...) {
		if err != nil {
			errs++
			continue
		}
		found = append(found, g.Name)
	}
	return found, errs
}

// describes returns the number of requests for groups so far.
func describes(server *awstest.Server) (n int) {
	for _, call := range server.Calls() {
		if call.Action == "DescribeAutoScalingGroups" {
			n++
		}
	}
	return n
}

// A sweep runs each minute, and Auto Scaling limits the requests of an account. An account has at most 500 groups.
func TestList_500Groups_NeedsFiveRequests(t *testing.T) {
	server, groups, _ := account(t)
	var names []string
	for n := range 499 {
		names = append(names, fmt.Sprint("batch-", n))
		server.AddGroup(names[n])
	}
	found, errs := listed(t.Context(), groups)
	require.Len(t, found, 500)
	require.Zero(t, errs)
	require.Equal(t, 5, describes(server))

	found, errs = listed(t.Context(), groups, names...)
	require.Len(t, found, 499)
	require.Zero(t, errs)
	require.Equal(t, 10, describes(server))
}

func TestList_KnownGroup_HasItsInstances(t *testing.T) {
	server, groups, _ := account(t)
	terminated(t, server)
	for g, err := range groups.List(t.Context(), group, "unknown") {
		require.NoError(t, err)
		g.CreatedAt = time.Time{}
		require.Equal(t, termination.Group{
			Name: group, Tags: map[string]string{},
			Instances: []termination.Instance{{ID: instance, Group: group, Zone: "eu-west-1a", State: "Terminating:Wait"}},
			Missing:   1,
		}, g)
	}
}

func TestList_OneRequestFails_YieldsOtherGroups(t *testing.T) {
	server, groups, _ := account(t)
	names := []string{group}
	for n := range 100 {
		names = append(names, fmt.Sprint("batch-", n))
		server.AddGroup(names[n+1])
	}
	server.Fail("autoscaling", "DescribeAutoScalingGroups", awstest.Fault{
		Times: 1, Code: http.StatusBadRequest, ErrorCode: "AccessDenied", Message: "not authorized",
	})
	found, errs := listed(t.Context(), groups, names...)
	require.Equal(t, []string{"batch-99"}, found)
	require.Equal(t, 1, errs)
}

func TestList_CallerStops_RequestsNoMorePages(t *testing.T) {
	server, groups, _ := account(t)
	for n := range 300 {
		server.AddGroup(fmt.Sprint("batch-", n))
	}
	for range groups.List(t.Context()) {
		break
	}
	require.Equal(t, 1, describes(server))
}

func TestActivityStarts_InProgress_AreReturned(t *testing.T) {
	server, groups, _ := account(t)
	server.AddInstance(group, awstest.Instance{ID: "i-0fed"})
	server.AddInstance(group, awstest.Instance{ID: "i-0123456789abcdef1"})
	server.Terminate("i-0123456789abcdef1")
	server.SetState("i-0123456789abcdef1", "")
	before := time.Now()
	event := terminated(t, server)
	began, err := groups.ActivityStarts(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, began, 1, "the activity of the other instance is over")
	require.WithinRange(t, began[instance], before.Add(-time.Second), time.Now())
	require.WithinDuration(t, event.Began, began[instance], time.Second, "as the event says")

	_, err = groups.ActivityStarts(t.Context(), "theirs")
	require.ErrorContains(t, err, "describe the activities of theirs")
}

// Auto Scaling keeps the activities of six weeks.
func TestActivityStarts_ManyOver_ReadsOnePage(t *testing.T) {
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

func TestEC2Instances_SpotInstance_IsSpot(t *testing.T) {
	server, groups, _ := account(t)
	server.AddInstance(group, awstest.Instance{ID: "i-0fedcba9876543210", Spot: true})
	found, err := groups.EC2Instances(t.Context(), instance, "i-0fedcba9876543210")
	require.NoError(t, err)
	require.False(t, found[instance].Spot)
	require.True(t, found["i-0fedcba9876543210"].Spot)
}
