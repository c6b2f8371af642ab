package asg

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

const group, hookName, instance = "workers-a", "quiesce", "i-0123456789abcdef0"

// account returns an account with one group, its hook, and one instance in service.
func account(t *testing.T) (*awstest.Server, *Groups, *Hooks) {
	t.Helper()
	server, config := awstest.Serve(t)
	server.AddGroup(group, awstest.Hook{Name: hookName, HeartbeatTimeout: 5 * time.Minute, DefaultResult: "CONTINUE"})
	server.AddInstance(group, awstest.Instance{ID: instance, Zone: "eu-west-1a", PrivateDNS: "ip-10-0-0-1.eu-west-1.compute.internal"})
	return server, NewGroups(config), NewHooks(config)
}

func terminated(t *testing.T, server *awstest.Server) termination.Termination {
	t.Helper()
	return *Parse(server.Terminate(instance)[0].Body).Records[0].Termination
}

func TestGroups_Instance_IsDescribed(t *testing.T) {
	server, groups, _ := account(t)
	instances, err := groups.Instances(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, []termination.Instance{{ID: instance, Zone: "eu-west-1a", State: "InService"}}, instances)
	terminated(t, server)
	instances, err = groups.Instances(t.Context(), group)
	require.NoError(t, err)
	require.Equal(t, "Terminating:Wait", instances[0].State)

	found, err := groups.GroupOf(t.Context(), instance)
	require.NoError(t, err)
	require.Equal(t, group, found)
	inEC2, err := groups.EC2Instances(t.Context(), instance, "i-0000000000000000f")
	require.NoError(t, err)
	require.Equal(t, map[string]termination.EC2Instance{instance: {PrivateDNS: "ip-10-0-0-1.eu-west-1.compute.internal"}}, inEC2)
}

func TestAnUnknownGroupHasNoInstances(t *testing.T) {
	_, groups, _ := account(t)
	for _, name := range []string{"theirs", ""} {
		instances, err := groups.Instances(t.Context(), name)
		require.NoError(t, err)
		require.Empty(t, instances, "group %q", name)
	}
	found, err := groups.GroupOf(t.Context(), "i-0000000000000000f")
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestDescribe_Hook_HasItsTimeouts(t *testing.T) {
	_, _, hooks := account(t)
	hook, err := hooks.Describe(t.Context(), group, hookName)
	require.NoError(t, err)
	require.Equal(t, termination.Hook{
		HeartbeatTimeout: 5 * time.Minute, GlobalTimeout: 500 * time.Minute,
	}, hook)
	_, err = hooks.Describe(t.Context(), group, "other")
	require.ErrorContains(t, err, "other")
	require.ErrorIs(t, err, termination.ErrNoHook)
	_, err = hooks.Describe(t.Context(), "theirs", hookName)
	require.Error(t, err)
	require.NotErrorIs(t, err, termination.ErrNoHook, "a missing group is another error")
}

func TestAnActionIsKeptAliveAndCompletedOnce(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	require.NoError(t, hooks.Heartbeat(t.Context(), event))
	require.Len(t, server.Heartbeats(instance), 1)
	require.NoError(t, hooks.Complete(t.Context(), event, termination.Continue))
	require.Len(t, server.Completions(instance), 1)
	require.ErrorIs(t, hooks.Complete(t.Context(), event, termination.Continue), termination.ErrNoActiveAction)
	require.ErrorIs(t, hooks.Heartbeat(t.Context(), event), termination.ErrNoActiveAction)
}

func TestComplete_NoToken_FindsActionByInstance(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	event.Token = ""
	require.NoError(t, hooks.Complete(t.Context(), event, termination.Abandon))
	require.Equal(t, "ABANDON", server.Completions(instance)[0].Result)
}

func TestComplete_OtherValidationError_IsNotNoAction(t *testing.T) {
	server, _, hooks := account(t)
	event := terminated(t, server)
	event.Group = "theirs"
	err := hooks.Complete(t.Context(), event, termination.Continue)
	require.Error(t, err)
	require.NotErrorIs(t, err, termination.ErrNoActiveAction)
}
