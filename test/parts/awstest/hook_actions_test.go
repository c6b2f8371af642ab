package awstest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func (c scaling) put(in autoscaling.PutLifecycleHookInput) error {
	in.AutoScalingGroupName = aws.String(group)
	_, err := c.client.PutLifecycleHook(c.Context(), &in)
	return err
}

func (c scaling) deleteHook(name string) error {
	_, err := c.client.DeleteLifecycleHook(c.Context(), &autoscaling.DeleteLifecycleHookInput{
		AutoScalingGroupName: aws.String(group), LifecycleHookName: &name,
	})
	return err
}

func TestPutLifecycleHook_NewThenAgain_CreatesThenUpdates(t *testing.T) {
	s := startWithInstance(t)
	c := scalingOf(t, s)
	require.NoError(t, c.put(autoscaling.PutLifecycleHookInput{
		LifecycleHookName: aws.String(hook), LifecycleTransition: aws.String(awstest.Terminating), NotificationMetadata: aws.String("info"),
	}))
	created := awstest.Hook{
		Name: hook, Transition: awstest.Terminating, HeartbeatTimeout: time.Hour, GlobalTimeout: 48 * time.Hour, DefaultResult: awstest.Abandon,
		Metadata: "info",
	}
	require.Equal(t, []awstest.Hook{created}, s.HooksOf(group))
	require.NoError(t, c.put(autoscaling.PutLifecycleHookInput{
		LifecycleHookName: aws.String(hook), HeartbeatTimeout: aws.Int32(60), DefaultResult: aws.String(awstest.Continue),
	}))
	created.HeartbeatTimeout, created.GlobalTimeout, created.DefaultResult = time.Minute, 100*time.Minute, awstest.Continue
	require.Equal(t, []awstest.Hook{created}, s.HooksOf(group), "what the request leaves out stays")
	out, err := c.client.DescribeLifecycleHooks(t.Context(), &autoscaling.DescribeLifecycleHooksInput{AutoScalingGroupName: aws.String(group)})
	require.NoError(t, err)
	require.Equal(t, "info", *out.LifecycleHooks[0].NotificationMetadata)
	require.Contains(t, string(s.Terminate(id)[0].Body), `"NotificationMetadata":"info"`)
}

func TestPutLifecycleHook_Invalid_Refused(t *testing.T) {
	s := startWithInstance(t)
	c := scalingOf(t, s)
	name, terminating := aws.String(hook), aws.String(awstest.Terminating)
	for _, in := range []autoscaling.PutLifecycleHookInput{
		{LifecycleHookName: name},
		{LifecycleHookName: aws.String("a b"), LifecycleTransition: terminating},
		{LifecycleHookName: name, LifecycleTransition: aws.String("terminating")},
		{LifecycleHookName: name, LifecycleTransition: terminating, HeartbeatTimeout: aws.Int32(29)},
		{LifecycleHookName: name, LifecycleTransition: terminating, HeartbeatTimeout: aws.Int32(7201)},
		{LifecycleHookName: name, LifecycleTransition: terminating, DefaultResult: aws.String("RETRY")},
	} {
		requireCode(t, c.put(in), "ValidationError")
	}
	require.Empty(t, s.HooksOf(group))
	for n := range 50 {
		require.NoError(t, c.put(autoscaling.PutLifecycleHookInput{LifecycleHookName: aws.String(fmt.Sprint("h-", n)), LifecycleTransition: terminating}))
	}
	requireCode(t, c.put(autoscaling.PutLifecycleHookInput{LifecycleHookName: name, LifecycleTransition: terminating}), "LimitExceeded")
	require.NoError(t, c.put(autoscaling.PutLifecycleHookInput{LifecycleHookName: aws.String("h-0"), HeartbeatTimeout: aws.Int32(30)}))
	s.DeleteGroup(group)
	requireCode(t, c.put(autoscaling.PutLifecycleHookInput{LifecycleHookName: aws.String("h-0")}), "ValidationError")
}

func TestDeleteLifecycleHook_InstanceWaits_ItGoesOn(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook}, awstest.Hook{Name: "second"})
	s.SetTerminationDelay(time.Hour)
	c := scalingOf(t, s)
	s.Terminate(id)
	require.NoError(t, c.deleteHook(hook))
	require.Equal(t, "Terminating:Wait", s.State(id), "the second hook holds it")
	require.NoError(t, c.deleteHook("second"))
	require.Equal(t, "Terminating:Proceed", s.State(id))
	require.Empty(t, s.HooksOf(group))
	requireCode(t, c.deleteHook(hook), "ValidationError")
}

func TestDescribeGroups_TagsAgeAndDeletion_AreDescribed(t *testing.T) {
	s := startWithInstance(t)
	c := scalingOf(t, s)
	s.TagGroup(group, map[string]string{"team": "payments"})
	s.BackdateGroup(group, time.Hour)
	g := c.groups(autoscaling.DescribeAutoScalingGroupsInput{})[0][0]
	require.Len(t, g.Tags, 1)
	require.Equal(t, "team payments "+group, *g.Tags[0].Key+" "+*g.Tags[0].Value+" "+*g.Tags[0].ResourceId)
	require.WithinDuration(t, time.Now().Add(-time.Hour), *g.CreatedTime, waitTimeout)
	require.Nil(t, g.Status)
	s.DeleteGroup(group)
	require.Equal(t, "Delete in progress", *c.groups(autoscaling.DescribeAutoScalingGroupsInput{})[0][0].Status)
	s.RemoveGroup(group)
	require.Empty(t, c.groups(autoscaling.DescribeAutoScalingGroupsInput{})[0])
}
