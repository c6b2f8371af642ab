package asg

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

func TestScheduledChanges_OverAndOthers_AreLeftOut(t *testing.T) {
	server, groups, _ := account(t)
	at := time.Date(2026, 12, 5, 8, 0, 0, 0, time.UTC)
	for _, e := range []awstest.ScheduledEvent{
		{Code: "instance-retirement", Description: "The instance is running on degraded hardware", NotBefore: at},
		{Code: "system-reboot", Description: "[Completed] scheduled reboot", NotBefore: at.Add(-48 * time.Hour)},
		{Code: "system-maintenance", Description: "[Canceled] scheduled maintenance", NotBefore: at},
	} {
		server.Schedule(instance, e)
	}
	for n := range 1001 { // more than a page
		id := fmt.Sprintf("i-%017x", n)
		server.AddInstance(group, awstest.Instance{ID: id})
		server.Schedule(id, awstest.ScheduledEvent{Code: "instance-stop", NotBefore: at})
	}
	server.StopInEC2("i-00000000000000000", "stopped", "Server.ScheduledStop") // its change is over

	changes, err := groups.ScheduledChanges(t.Context())
	require.NoError(t, err)
	require.Len(t, changes, 1001)
	require.Equal(t, termination.ScheduledChange{InstanceID: instance, Code: "instance-retirement", NotBefore: at}, changes[0])
}

func TestTerminate_InstanceInService_WaitsOnItsHook(t *testing.T) {
	server, groups, _ := account(t)
	server.Protect(instance)
	described, err := groups.Group(t.Context(), group)
	require.NoError(t, err)
	require.True(t, described.Instances[0].Protected)

	require.NoError(t, groups.Terminate(t.Context(), instance), "protection is from scale-in only")
	require.Equal(t, "Terminating:Wait", server.State(instance))
	events := server.Events(group)
	require.Len(t, events, 1)
	require.Equal(t, instance, Parse(events[0].Body).Records[0].Termination.InstanceID)
	for g, err := range groups.List(t.Context(), group) {
		require.NoError(t, err)
		require.Equal(t, 1, g.Missing, "the desired capacity stays")
	}
	_ = groups.Terminate(t.Context(), instance) // AWS documents no answer for an instance that terminates already
	require.Empty(t, server.Events(group), "nothing begins again")
	require.Error(t, groups.Terminate(t.Context(), "i-0000000000000000f"))
}

// The desired capacity of a group with weights counts weights, not instances.
func TestMissing_Weights_AreCounted(t *testing.T) {
	weighted := func(state types.LifecycleState) types.Instance {
		return types.Instance{WeightedCapacity: aws.String("4"), LifecycleState: state}
	}
	g := types.AutoScalingGroup{DesiredCapacity: aws.Int32(8), Instances: []types.Instance{weighted("InService"), weighted("InService")}}
	require.Zero(t, toGroup(g).Missing)
	g.Instances[1] = weighted("Terminating:Wait")
	require.Equal(t, 4, toGroup(g).Missing)
}

func TestEC2Instances_Stopped_HaveTheReason(t *testing.T) {
	server, groups, _ := account(t)
	for _, state := range []string{"shutting-down", "stopping", "stopped"} {
		server.StopInEC2(instance, state, "Client.InstanceInitiatedShutdown")
		found, err := groups.EC2Instances(t.Context(), instance)
		require.NoError(t, err)
		require.True(t, found[instance].Stopped, state)
		require.Equal(t, state == "shutting-down", found[instance].Terminated, state)
		require.Equal(t, "Client.InstanceInitiatedShutdown", found[instance].StopReason)
	}
}
