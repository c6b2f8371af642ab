package awstest_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestTerminateInstance_Hook_InstanceWaitsAndEventIsQueued(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	queue := s.AddQueue(awstest.Queue{Name: "events"})
	s.SendEventsTo(queue)
	client := autoscaling.NewFromConfig(config(s))
	input := &autoscaling.TerminateInstanceInAutoScalingGroupInput{InstanceId: aws.String(id), ShouldDecrementDesiredCapacity: aws.Bool(false)}
	out, err := client.TerminateInstanceInAutoScalingGroup(t.Context(), input)
	require.NoError(t, err)
	require.Contains(t, *out.Activity.Description, id)
	require.Equal(t, "Terminating:Wait", s.State(id))
	require.Len(t, s.Messages(queue), 1)
	require.Contains(t, s.Messages(queue)[0].Body, id)

	_, err = client.TerminateInstanceInAutoScalingGroup(t.Context(), input)
	require.NoError(t, err)
	require.Len(t, s.Messages(queue), 1, "it terminates already")
	s.SetState(id, "")
	_, err = client.TerminateInstanceInAutoScalingGroup(t.Context(), input)
	require.ErrorContains(t, err, "No managed instance found")
}

func TestDescribeGroups_Tags_AreListed(t *testing.T) {
	s := startWithInstance(t)
	s.TagGroup(group, map[string]string{"team": "data"})
	out, err := autoscaling.NewFromConfig(config(s)).DescribeAutoScalingGroups(t.Context(), &autoscaling.DescribeAutoScalingGroupsInput{})
	require.NoError(t, err)
	require.Len(t, out.AutoScalingGroups[0].Tags, 1)
	require.Equal(t, "team", *out.AutoScalingGroups[0].Tags[0].Key)
	require.Equal(t, "data", *out.AutoScalingGroups[0].Tags[0].Value)
}
