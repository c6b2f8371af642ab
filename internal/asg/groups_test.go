package asg

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

const group, hookName, instance = "workers-a", "quiesce", "i-0123456789abcdef0"

var launched = time.Date(2026, 11, 20, 7, 0, 0, 0, time.UTC)

// account returns an account with one group, its hook, and one instance in service.
func account(t *testing.T) (*awstest.Server, *Groups, *Hooks) {
	t.Helper()
	server, config := awstest.Serve(t)
	server.AddGroup(group, awstest.Hook{Name: hookName, HeartbeatTimeout: 5 * time.Minute, DefaultResult: "CONTINUE"})
	server.AddInstance(group, awstest.Instance{
		ID: instance, Zone: "eu-west-1a", PrivateDNS: "ip-10-0-0-1.eu-west-1.compute.internal", PrivateIP: "10.0.0.1",
		IPv6: []string{"2001:db8::1"}, LaunchedAt: launched,
	})
	return server, NewGroups(config), NewHooks(config)
}

func terminated(t *testing.T, server *awstest.Server) termination.Termination {
	t.Helper()
	return *Parse(server.Terminate(instance)[0].Body).Records[0].Termination
}

func TestGroups_Instance_IsDescribed(t *testing.T) {
	server, groups, _ := account(t)
	described, err := groups.Group(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, []termination.Instance{{ID: instance, Group: group, Zone: "eu-west-1a", State: "InService"}}, described.Instances)
	terminated(t, server)
	described, err = groups.Group(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, "Terminating:Wait", described.Instances[0].State)

	found, err := groups.Instance(t.Context(), instance)
	require.NoError(t, err)
	require.Equal(t, termination.Instance{ID: instance, Group: group, Zone: "eu-west-1a", State: "Terminating:Wait"}, found)
	inEC2, err := groups.EC2Instances(t.Context(), instance, "i-0000000000000000f")
	require.NoError(t, err)
	require.Equal(t, map[string]termination.EC2Instance{
		instance: {
			PrivateDNS: "ip-10-0-0-1.eu-west-1.compute.internal", LaunchedAt: launched,
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")},
		},
	}, inEC2)
	none, err := groups.EC2Instances(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestGroup_TagsAndAge_AreDescribed(t *testing.T) {
	server, groups, _ := account(t)
	server.TagGroup(group, map[string]string{"team": "payments", "k8s.io/cluster/prod": "owned"})
	server.BackdateGroup(group, time.Hour)
	described, err := groups.Group(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, group, described.Name)
	require.Equal(t, map[string]string{"team": "payments", "k8s.io/cluster/prod": "owned"}, described.Tags)
	require.WithinDuration(t, time.Now().Add(-time.Hour), described.CreatedAt, time.Minute)
	require.False(t, described.Deleting)
	server.DeleteGroup(group)
	for listed, err := range groups.List(t.Context()) {
		require.NoError(t, err)
		require.True(t, listed.Deleting)
		require.Equal(t, described.Tags, listed.Tags)
	}
}

func TestGroup_Unknown_HasNoInstances(t *testing.T) {
	_, groups, _ := account(t)
	for _, name := range []string{"theirs", ""} {
		described, err := groups.Group(t.Context(), name)
		require.NoError(t, err)
		require.Zero(t, described, "group %q", name)
	}
	found, err := groups.Instance(t.Context(), "i-0000000000000000f")
	require.NoError(t, err)
	require.Equal(t, termination.Instance{ID: "i-0000000000000000f"}, found)
}

func TestDescribe_Hook_HasItsTimeouts(t *testing.T) {
	_, _, hooks := account(t)
	hook, err := hooks.Describe(t.Context(), group, hookName)
	require.NoError(t, err)
	require.Equal(t, termination.Hook{
		HeartbeatTimeout: 5 * time.Minute, GlobalTimeout: 500 * time.Minute, DefaultResult: termination.Continue,
	}, hook)
	_, err = hooks.Describe(t.Context(), group, "other")
	require.ErrorContains(t, err, "other")
	require.ErrorIs(t, err, termination.ErrNoHook)
	_, err = hooks.Describe(t.Context(), "theirs", hookName)
	require.Error(t, err)
	require.NotErrorIs(t, err, termination.ErrNoHook, "a missing group is another error")
}

func TestAction_Completed_IsNoLongerActive(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	require.NoError(t, hooks.Heartbeat(t.Context(), event))
	require.Len(t, server.Heartbeats(instance), 1)
	require.NoError(t, hooks.Complete(t.Context(), event, termination.Continue))
	require.Len(t, server.Completions(instance), 1)
	require.ErrorIs(t, hooks.Complete(t.Context(), event, termination.Continue), termination.ErrNoActiveAction)
	require.ErrorIs(t, hooks.Heartbeat(t.Context(), event), termination.ErrNoActiveAction)
}

// Otherwise a completion whose answer is lost looks like a hook whose timeout was over, which raises an alarm.
func TestComplete_AnswerIsLost_IsNotNoAction(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	server.Fail("autoscaling", "CompleteLifecycleAction", awstest.Fault{
		Times: 1, Code: http.StatusInternalServerError, ErrorCode: "InternalFailure", AfterEffect: true,
	})
	err := hooks.Complete(t.Context(), event, termination.Continue)
	require.ErrorContains(t, err, "InternalFailure")
	require.NotErrorIs(t, err, termination.ErrNoActiveAction)
	require.Len(t, server.Completions(instance), 1)
}

func TestComplete_NoToken_FindsActionByInstance(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	event.Token = ""
	require.NoError(t, hooks.Complete(t.Context(), event, termination.Abandon))
	require.Equal(t, "ABANDON", server.Completions(instance)[0].Result)
}

// A token of an earlier action must not complete the present one.
func TestComplete_TokenOfAnotherAction_IsNoAction(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	event.Token = "00000000-0000-0000-0000-000000000000"
	require.ErrorIs(t, hooks.Complete(t.Context(), event, termination.Continue), termination.ErrNoActiveAction)
	require.Empty(t, server.Completions(instance))
}

func TestComplete_OtherValidationError_IsNotNoAction(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	event.Group = "theirs"
	err := hooks.Complete(t.Context(), event, termination.Continue)
	require.Error(t, err)
	require.NotErrorIs(t, err, termination.ErrNoActiveAction)
}

// DescribeAutoScalingGroups lists no instances of a warm pool. They were rejected, and then stopped without a signal to their pods.
func TestGroups_WarmInstance_IsFound(t *testing.T) {
	server, groups, _ := account(t)
	server.AddWarmPool(group)
	server.ReturnToWarmPool(instance)
	want := termination.Instance{ID: instance, Group: group, Zone: "eu-west-1a", State: "Warmed:Pending:Wait"}
	inGroup, err := groups.Group(t.Context(), group)
	require.NoError(t, err)
	require.Empty(t, inGroup.Instances)
	found, err := groups.Instance(t.Context(), instance)
	require.NoError(t, err)
	require.Equal(t, want, found)
	warm, err := groups.WarmPool(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, []termination.Instance{want}, warm)
	for g, err := range groups.List(t.Context()) {
		require.NoError(t, err)
		require.True(t, g.WarmPool)
		require.Empty(t, g.Instances)
	}
}

func TestWarmPool_ManyInstances_AllPages(t *testing.T) {
	server, groups, _ := account(t)
	server.AddWarmPool(group)
	for n := range 120 {
		id := fmt.Sprintf("i-%017x", n)
		server.AddInstance(group, awstest.Instance{ID: id})
		server.SetState(id, "Warmed:Running")
	}
	warm, err := groups.WarmPool(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, warm, 120)
	_, err = groups.WarmPool(t.Context(), "theirs")
	require.ErrorContains(t, err, "describe the warm pool of theirs")
}

// EC2 was lost for all instances when more than 200 terminated together.
func TestEC2Instances_Over200_FoundInChunks(t *testing.T) {
	server, groups, _ := account(t)
	var ids []string
	for n := range 450 {
		ids = append(ids, fmt.Sprintf("i-%017x", n))
		server.AddInstance(group, awstest.Instance{ID: ids[n]})
	}
	found, err := groups.EC2Instances(t.Context(), ids...)
	require.NoError(t, err)
	require.Len(t, found, 450)

	server.Fail("ec2", "DescribeInstances", awstest.Fault{Times: 1, Code: http.StatusForbidden, ErrorCode: "UnauthorizedOperation"})
	found, err = groups.EC2Instances(t.Context(), ids...)
	require.ErrorContains(t, err, "describe instances")
	require.Len(t, found, 250, "those of the other requests")
}

func TestSpotInterrupted_StatusOfRequest_Decides(t *testing.T) {
	server, groups, _ := account(t)
	const spot = "i-0fedcba9876543210"
	server.AddInstance(group, awstest.Instance{ID: spot, Spot: true})
	for code, want := range map[string]bool{
		"fulfilled": false, "request-canceled-and-instance-running": false, "": false, "instance-terminated-by-user": false,
		"instance-stopped-by-user": false, "spot-instance-terminated-by-user": false, "pending-evaluation": false,
		"marked-for-termination": true, "marked-for-stop": true, "instance-terminated-by-price": true, "instance-terminated-no-capacity": true,
		"instance-stopped-by-price": true, "instance-stopped-no-capacity": true, "instance-terminated-by-service": true,
	} {
		server.SetSpotStatus(spot, code)
		since, interrupted, err := groups.SpotInterrupted(t.Context(), spot)
		require.NoError(t, err)
		require.Equal(t, want, interrupted, code)
		require.Equal(t, want, !since.IsZero(), code)
		if want {
			require.WithinDuration(t, time.Now(), since, time.Minute, code)
		}
	}
	_, interrupted, err := groups.SpotInterrupted(t.Context(), instance)
	require.NoError(t, err)
	require.False(t, interrupted, "no Spot instance")
	server.Fail("ec2", "", awstest.Fault{Code: http.StatusForbidden, ErrorCode: "UnauthorizedOperation"})
	_, _, err = groups.SpotInterrupted(t.Context(), spot)
	require.ErrorContains(t, err, "describe the Spot request of "+spot)
}
