package awstest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestTerminate_WithHook_WaitsAndSendsEvent(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	require.Equal(t, "InService", s.State(id))
	sent := s.Terminate(id)
	require.Len(t, sent, 1)
	require.Equal(t, "Terminating:Wait", s.State(id))
	require.Equal(t, "Terminating:Wait", scalingOf(t, s).described())
	var e events.AutoScalingEvent
	require.NoError(t, json.Unmarshal(sent[0].Body, &e))
	require.Equal(t, "EC2 Instance-terminate Lifecycle Action", e.DetailType)
	require.WithinDuration(t, time.Now(), e.Time, waitTimeout)
	require.Equal(t, map[string]any{
		"LifecycleActionToken": sent[0].Token, "AutoScalingGroupName": group, "LifecycleHookName": hook, "EC2InstanceId": id,
		"LifecycleTransition": awstest.Terminating, "Origin": "AutoScalingGroup", "Destination": "EC2",
	}, e.Detail)
	require.Empty(t, s.Terminate(id), "it is already going")
}

func TestTerminate_WithoutHook_NoEvent(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: "launch", Transition: awstest.Launching})
	s.SetTerminationDelay(time.Hour)
	require.Empty(t, s.Terminate(id))
	require.Equal(t, "Terminating", s.State(id))
	s.SetState(id, "InService")
	s.SetTerminationDelay(0)
	require.Empty(t, s.Terminate(id))
	require.Empty(t, s.State(id))
	require.Empty(t, scalingOf(t, s).described())
}

func TestComplete_Continue_InstanceTerminates(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetTerminationDelay(time.Hour)
	token := s.Terminate(id)[0].Token
	require.NoError(t, scalingOf(t, s).complete(token, awstest.Continue))
	require.Equal(t, "Terminating:Proceed", s.State(id))
	done := s.Completions(id)
	require.Len(t, done, 1)
	require.WithinDuration(t, time.Now(), done[0].At, waitTimeout)
	done[0].At = time.Time{}
	require.Equal(t, awstest.Completion{Hook: hook, Token: token, Result: awstest.Continue, By: "fn"}, done[0])
	require.False(t, s.Expired(id))
}

func TestComplete_Twice_SecondFindsNoAction(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	token := s.Terminate(id)[0].Token
	c := scalingOf(t, s)
	require.NoError(t, c.complete(token, awstest.Continue))
	requireCode(t, c.complete(token, awstest.Continue), "ValidationError")
	require.ErrorContains(t, c.complete(token, awstest.Continue), "No active Lifecycle Action found with token "+token)
	require.ErrorContains(t, c.completeByInstance(hook, awstest.Continue), "No active Lifecycle Action found with instance ID "+id)
	require.Len(t, s.Completions(id), 1)
}

func TestComplete_StaleToken_RefusedInstanceIDAccepted(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	stale := s.Terminate(id)[0].Token
	s.SetState(id, "InService")
	require.ErrorContains(t, scalingOf(t, s).heartbeat(group, hook, stale), "No active Lifecycle Action found")
	fresh := s.Terminate(id)
	require.Len(t, fresh, 1)
	c := scalingOf(t, s)
	require.ErrorContains(t, c.complete(stale, awstest.Continue), "No active Lifecycle Action found with token")
	require.Equal(t, "Terminating:Wait", s.State(id))
	require.NoError(t, c.completeByInstance(hook, awstest.Continue))
	require.Equal(t, fresh[0].Token, s.Completions(id)[0].Token)
}

func TestComplete_OneHookContinues_OthersStillWait(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook}, awstest.Hook{Name: "other"})
	s.SetTerminationDelay(time.Hour)
	require.Len(t, s.Terminate(id), 2)
	c := scalingOf(t, s)
	require.NoError(t, c.completeByInstance(hook, awstest.Continue))
	require.Equal(t, "Terminating:Wait", s.State(id))
	require.NoError(t, c.completeByInstance("other", awstest.Continue))
	require.Equal(t, "Terminating:Proceed", s.State(id))
}

func TestComplete_Abandon_OtherHooksEnd(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook}, awstest.Hook{Name: "other"})
	s.SetTerminationDelay(time.Hour)
	s.Terminate(id)
	c := scalingOf(t, s)
	require.NoError(t, c.completeByInstance("other", awstest.Abandon))
	require.Equal(t, "Terminating:Proceed", s.State(id))
	require.ErrorContains(t, c.completeByInstance(hook, awstest.Continue), "No active Lifecycle Action found")
}

func TestHeartbeat_InstanceWaits_Recorded(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	token := s.Terminate(id)[0].Token
	require.NoError(t, scalingOf(t, s).heartbeat(group, hook, token))
	require.Len(t, s.Heartbeats(id), 1)
}

func TestCalls_UnknownNames_Invalid(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	token := s.Terminate(id)[0].Token
	c := scalingOf(t, s)
	require.ErrorContains(t, c.heartbeat("nowhere", hook, token), "AutoScalingGroup nowhere not found")
	require.ErrorContains(t, c.heartbeat(group, "unknown", token), "hook unknown not found")
	require.ErrorContains(t, c.heartbeat(group, hook, "short"), "failed to satisfy constraint")
	require.ErrorContains(t, c.heartbeat(group, hook, ""), "must be given")
	require.ErrorContains(t, c.complete(token, "MAYBE"), "CONTINUE or ABANDON")
	require.Equal(t, "Terminating:Wait", s.State(id))
}

func TestSetState_PendingWait_DescribedWithoutAction(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetState(id, "Pending:Wait")
	require.Equal(t, "Pending:Wait", scalingOf(t, s).described())
	require.ErrorContains(t, scalingOf(t, s).completeByInstance(hook, awstest.Continue), "No active Lifecycle Action found")
}

func TestDescriptionLag_Set_OldStateDescribed(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.SetDescriptionLag(time.Hour)
	s.Terminate(id)
	c := scalingOf(t, s)
	require.Equal(t, "InService", c.described())
	require.Equal(t, "Terminating:Wait", s.State(id))
	s.SetDescriptionLag(0)
	require.Equal(t, "Terminating:Wait", c.described())
}

func TestDescribeHooks_DefaultOrGivenTimeouts_Described(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook},
		awstest.Hook{Name: "short", HeartbeatTimeout: 30 * time.Second, DefaultResult: awstest.Continue})
	out, err := autoscaling.NewFromConfig(config(s)).DescribeLifecycleHooks(t.Context(), &autoscaling.DescribeLifecycleHooksInput{
		AutoScalingGroupName: aws.String(group),
	})
	require.NoError(t, err)
	require.Equal(t, []asgtypes.LifecycleHook{
		described(hook, 3600, 172800, awstest.Abandon),
		described("short", 30, 3000, awstest.Continue),
	}, out.LifecycleHooks)
}

func described(name string, heartbeat, global int32, result string) asgtypes.LifecycleHook {
	return asgtypes.LifecycleHook{
		AutoScalingGroupName: aws.String(group), LifecycleHookName: aws.String(name),
		LifecycleTransition: aws.String(awstest.Terminating), DefaultResult: aws.String(result),
		HeartbeatTimeout: aws.Int32(heartbeat), GlobalTimeout: aws.Int32(global),
	}
}

func TestDescribeGroups_MaxRecords_InPages(t *testing.T) {
	s := startWithInstance(t)
	s.AddGroup("workers-b")
	s.AddGroup("workers-c")
	c := scalingOf(t, s)
	pages := c.groups(autoscaling.DescribeAutoScalingGroupsInput{MaxRecords: aws.Int32(2)})
	require.Len(t, pages, 2)
	require.Len(t, pages[0], 2)
	require.Equal(t, "workers-c", *pages[1][0].AutoScalingGroupName)
	require.Contains(t, *pages[1][0].AutoScalingGroupARN, ":autoScalingGroupName/workers-c")
	named := c.groups(autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{"workers-b", "unknown"}})
	require.Len(t, named[0], 1)
}

func TestDescribeAutoScalingInstances_OneUnknown_OtherHasItsGroup(t *testing.T) {
	s := startWithInstance(t)
	s.AddInstance(group, awstest.Instance{ID: "i-0f", Zone: "eu-west-1b"})
	client := autoscaling.NewFromConfig(config(s))
	out, err := client.DescribeAutoScalingInstances(t.Context(), &autoscaling.DescribeAutoScalingInstancesInput{
		InstanceIds: []string{id, "i-0"},
	})
	require.NoError(t, err)
	require.Len(t, out.AutoScalingInstances, 1)
	require.Equal(t, group, *out.AutoScalingInstances[0].AutoScalingGroupName)
	require.Equal(t, "InService", *out.AutoScalingInstances[0].LifecycleState)
	require.Equal(t, "eu-west-1a", *out.AutoScalingInstances[0].AvailabilityZone)
}
