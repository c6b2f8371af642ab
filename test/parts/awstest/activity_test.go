package awstest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// activities walks the pages of DescribeScalingActivities.
func (c scaling) activities(pageSize int32) (all []asgtypes.Activity, pages int) {
	c.Helper()
	walk := autoscaling.NewDescribeScalingActivitiesPaginator(c.client, &autoscaling.DescribeScalingActivitiesInput{
		AutoScalingGroupName: aws.String(group), MaxRecords: aws.Int32(pageSize),
	})
	for ; walk.HasMorePages(); pages++ {
		out, err := walk.NextPage(c.Context())
		require.NoError(c, err)
		all = append(all, out.Activities...)
	}
	return all, pages
}

func TestDescribeActivities_InProgress_First(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.AddInstance(group, awstest.Instance{ID: "i-0f"})
	c := scalingOf(t, s)
	before := time.Now()
	s.Terminate("i-0f")
	s.Terminate(id)
	all, _ := c.activities(100)
	require.Len(t, all, 2)
	require.Equal(t, "Terminating EC2 instance: "+id, *all[0].Description)
	require.Equal(t, asgtypes.ScalingActivityStatusCodeMidLifecycleAction, all[0].StatusCode)
	require.WithinRange(t, *all[0].StartTime, before.Add(-time.Second), time.Now())
	require.Nil(t, all[0].EndTime)

	s.SetState(id, "")
	all, pages := c.activities(1)
	require.Equal(t, 2, pages)
	require.Equal(t, "Terminating EC2 instance: i-0f", *all[0].Description)
	require.Equal(t, asgtypes.ScalingActivityStatusCodeSuccessful, all[1].StatusCode)
	require.NotNil(t, all[1].EndTime)
}

func TestRetainAbandoned_TerminatedAgain_HookFiresAgain(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetTerminationDelay(0)
	s.RetainAbandoned(group)
	first := s.Terminate(id)[0]
	c := scalingOf(t, s)
	require.NoError(t, c.complete(first.Token, awstest.Abandon))
	require.Equal(t, "Terminating:Retained", s.State(id))
	require.Equal(t, ec2types.InstanceStateNameRunning, ec2State(t, s))
	s.SetTerminationDelay(time.Hour)
	all, _ := c.activities(100)
	require.Equal(t, asgtypes.ScalingActivityStatusCodeCancelled, all[0].StatusCode)

	again := s.Terminate(id)
	require.Len(t, again, 1)
	require.NotEqual(t, first.Token, again[0].Token)
	require.Equal(t, "Terminating:Wait", s.State(id))
	require.NoError(t, c.complete(again[0].Token, awstest.Continue))
	require.Equal(t, "Terminating:Proceed", s.State(id))
}

func ec2State(t *testing.T, s *awstest.Server) ec2types.InstanceStateName {
	t.Helper()
	out, err := ec2.NewFromConfig(config(s)).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	require.NoError(t, err)
	return out.Reservations[0].Instances[0].State.Name
}

func TestRetainAbandoned_BeforeItIsRetained_ProceedsAndRuns(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetTerminationDelay(time.Hour)
	s.RetainAbandoned(group)
	c := scalingOf(t, s)
	require.NoError(t, c.complete(s.Terminate(id)[0].Token, awstest.Abandon))
	require.Equal(t, "Terminating:Proceed", s.State(id))
	require.Equal(t, ec2types.InstanceStateNameRunning, ec2State(t, s))
	require.Empty(t, s.Terminate(id), "its termination has not ended")
	all, _ := c.activities(100)
	require.Nil(t, all[0].EndTime)
}

// A retained instance is no capacity of its group, so terminating it cannot lower the capacity.
func TestRetainAbandoned_Capacity_WithoutIt(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetTerminationDelay(0)
	s.RetainAbandoned(group)
	s.AddInstance(group, awstest.Instance{ID: "i-0f"})
	c := scalingOf(t, s)
	require.NoError(t, c.complete(s.Terminate(id)[0].Token, awstest.Abandon))
	groups, err := c.client.DescribeAutoScalingGroups(t.Context(), &autoscaling.DescribeAutoScalingGroupsInput{})
	require.NoError(t, err)
	require.EqualValues(t, 1, *groups.AutoScalingGroups[0].DesiredCapacity)
	require.Len(t, groups.AutoScalingGroups[0].Instances, 2)
	terminate := func(decrement bool) error {
		_, err = c.client.TerminateInstanceInAutoScalingGroup(t.Context(), &autoscaling.TerminateInstanceInAutoScalingGroupInput{
			InstanceId: new(id), ShouldDecrementDesiredCapacity: &decrement,
		})
		return err
	}
	requireCode(t, terminate(true), "ValidationError")
	require.NoError(t, terminate(false))
}

// States that only begin like the end of an instance do not end it.
func TestState_RootVolumeReplaced_RunsAndCanBeTerminated(t *testing.T) {
	for _, state := range []string{"ReplacingRootVolume", "ReplacingRootVolume:Wait", "ReplacingRootVolume:Proceed", "RootVolumeReplaced", "Pending:Proceed"} {
		s := startWithInstance(t, awstest.Hook{Name: hook})
		s.SetState(id, state)
		require.Equal(t, ec2types.InstanceStateNameRunning, ec2State(t, s), state)
		require.Len(t, s.Terminate(id), 1, state)
	}
}

// An instance whose way back to the warm pool is abandoned is not stopped: it runs on.
func TestRetainAbandoned_WarmPool_HasStatesOfItsOwn(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetTerminationDelay(0)
	s.RetainAbandoned(group)
	c := scalingOf(t, s)
	require.NoError(t, c.complete(s.ReturnToWarmPool(id)[0].Token, awstest.Abandon))
	require.Equal(t, "Warmed:Pending:Retained", s.State(id))
	require.NoError(t, c.complete(s.Terminate(id)[0].Token, awstest.Abandon))
	require.Equal(t, "Warmed:Terminating:Retained", s.State(id))
}

func TestDescribeGroups_TooManyNames_Refused(t *testing.T) {
	s := startWithInstance(t)
	names := make([]string, 101)
	for i := range names {
		names[i] = fmt.Sprint("g-", i)
	}
	client := autoscaling.NewFromConfig(config(s))
	named := func(n int, records *int32) error {
		_, err := client.DescribeAutoScalingGroups(t.Context(), &autoscaling.DescribeAutoScalingGroupsInput{
			AutoScalingGroupNames: names[:n], MaxRecords: records,
		})
		return err
	}
	require.NoError(t, named(50, nil))
	requireCode(t, named(51, nil), "ValidationError")
	require.NoError(t, named(100, aws.Int32(100)))
	requireCode(t, named(101, aws.Int32(100)), "ValidationError")
}

func TestDescribeInstances_Spot_Reported(t *testing.T) {
	s := startWithInstance(t)
	s.AddInstance(group, awstest.Instance{ID: "i-0f", Spot: true})
	for instance, want := range map[string]string{id: "", "i-0f": "spot"} {
		out, err := ec2.NewFromConfig(config(s)).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{instance}})
		require.NoError(t, err)
		require.EqualValues(t, want, out.Reservations[0].Instances[0].InstanceLifecycle)
	}
}
