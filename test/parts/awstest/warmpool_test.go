package awstest_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// warmPool walks the pages of DescribeWarmPool, and returns the states by instance ID.
func (c scaling) warmPool(pageSize int32) (states map[string]string, pages int) {
	c.Helper()
	states = map[string]string{}
	walk := autoscaling.NewDescribeWarmPoolPaginator(c.client, &autoscaling.DescribeWarmPoolInput{
		AutoScalingGroupName: aws.String(group), MaxRecords: aws.Int32(pageSize),
	})
	for ; walk.HasMorePages(); pages++ {
		out, err := walk.NextPage(c.Context())
		require.NoError(c, err)
		for _, i := range out.Instances {
			states[*i.InstanceId] = string(i.LifecycleState)
		}
	}
	return states, pages
}

// instanceState returns the state of the instance as DescribeAutoScalingInstances has it.
func (c scaling) instanceState() string {
	c.Helper()
	out, err := c.client.DescribeAutoScalingInstances(c.Context(), &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: []string{id}})
	require.NoError(c, err)
	require.Len(c, out.AutoScalingInstances, 1)
	require.Equal(c, group, *out.AutoScalingInstances[0].AutoScalingGroupName)
	return *out.AutoScalingInstances[0].LifecycleState
}

func TestWarmPool_Instance_IsNotInItsGroup(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.AddWarmPool(group)
	c := scalingOf(t, s)
	states, _ := c.warmPool(50)
	require.Empty(t, states)

	events := s.ReturnToWarmPool(id)
	require.Len(t, events, 1)
	var event struct {
		Detail struct{ Origin, Destination string }
	}
	require.NoError(t, json.Unmarshal(events[0].Body, &event))
	require.Equal(t, "AutoScalingGroup WarmPool", event.Detail.Origin+" "+event.Detail.Destination)
	require.Empty(t, c.described())
	require.Equal(t, "Warmed:Pending:Wait", c.instanceState())
	states, _ = c.warmPool(50)
	require.Equal(t, map[string]string{id: "Warmed:Pending:Wait"}, states)

	s.SetTerminationDelay(0)
	require.NoError(t, c.complete(events[0].Token, awstest.Continue))
	require.Equal(t, "Warmed:Stopped", s.State(id))
	require.NoError(t, json.Unmarshal(s.Terminate(id)[0].Body, &event))
	require.Equal(t, "WarmPool EC2", event.Detail.Origin+" "+event.Detail.Destination)
	require.Equal(t, "Warmed:Terminating:Wait", c.instanceState())
	require.NoError(t, c.completeByInstance(hook, awstest.Continue))
	require.Empty(t, s.State(id))
}

func TestWarmPool_GroupWithoutOne_HasNoInstances(t *testing.T) {
	s := startWithInstance(t)
	c := scalingOf(t, s)
	in := autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{group}}
	require.Nil(t, c.groups(in)[0][0].WarmPoolConfiguration)
	s.AddWarmPool(group)
	require.NotNil(t, c.groups(in)[0][0].WarmPoolConfiguration)
	for n := range 3 {
		warm := fmt.Sprint("i-0", n)
		s.AddInstance(group, awstest.Instance{ID: warm})
		s.SetState(warm, "Warmed:Running")
	}
	states, pages := c.warmPool(2)
	require.Len(t, states, 3)
	require.Equal(t, 2, pages)
	require.Len(t, c.groups(in)[0][0].Instances, 1)
}

// AWS documents no limit of filter values. The error and its text are from reports of users.
func TestDescribeInstances_Over200FilterValues_Refused(t *testing.T) {
	s := startWithInstance(t)
	ids := make([]string, 201)
	for n := range ids {
		ids[n] = fmt.Sprintf("i-%017x", n)
	}
	client := ec2.NewFromConfig(config(s))
	filtered := func(values []string) error {
		_, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{
			Filters: []ec2types.Filter{{Name: aws.String("instance-id"), Values: values}},
		})
		return err
	}
	require.NoError(t, filtered(ids[:200]))
	requireCode(t, filtered(ids), "FilterLimitExceeded")
}

func TestDescribeSpotRequests_Status_IsAsSet(t *testing.T) {
	s := startWithInstance(t)
	s.AddInstance(group, awstest.Instance{ID: "i-0f", Spot: true})
	client := ec2.NewFromConfig(config(s))
	codes := func(instance string) (all []string) {
		out, err := client.DescribeSpotInstanceRequests(t.Context(), &ec2.DescribeSpotInstanceRequestsInput{Filters: filter(instance)})
		require.NoError(t, err)
		for _, r := range out.SpotInstanceRequests {
			require.Equal(t, instance, *r.InstanceId)
			require.WithinDuration(t, time.Now(), *r.Status.UpdateTime, time.Minute)
			all = append(all, *r.Status.Code)
		}
		return all
	}
	require.Empty(t, codes(id), "no Spot instance")
	require.Equal(t, []string{"fulfilled"}, codes("i-0f"))
	s.SetSpotStatus("i-0f", awstest.SpotMarked)
	require.Equal(t, []string{"marked-for-termination"}, codes("i-0f"))
}

func TestDescribeInstances_Instance_HasAddressAndLaunchTime(t *testing.T) {
	s := startWithInstance(t)
	s.AddInstance(group, awstest.Instance{ID: "i-0f", PrivateIP: "10.0.1.2"})
	out, err := ec2.NewFromConfig(config(s)).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{"i-0f"}})
	require.NoError(t, err)
	instance := out.Reservations[0].Instances[0]
	require.Equal(t, "10.0.1.2", *instance.PrivateIpAddress)
	require.False(t, instance.LaunchTime.IsZero())
}
