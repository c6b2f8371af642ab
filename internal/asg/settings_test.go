package asg

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

func TestSettings_WantedGroups_HaveHooksZonesAndPolicies(t *testing.T) {
	server, config := awstest.Serve(t)
	server.AddGroup("a", awstest.Hook{Name: "quiesce", HeartbeatTimeout: 20 * time.Minute, DefaultResult: awstest.Continue},
		awstest.Hook{Name: "launch", Transition: awstest.Launching})
	server.AddInstance("a", awstest.Instance{ID: "i-1", Zone: "eu-west-1a"})
	server.AddInstance("a", awstest.Instance{ID: "i-2", Zone: "eu-west-1b"})
	server.SetGroup("a", awstest.GroupSettings{Suspended: []string{"AZRebalance", "Launch"}, MinHealthy: 90})
	server.RetainAbandoned("a")
	server.AddGroup("b")
	server.AddGroup("c")

	all, err := NewGroups(config).Settings(t.Context(), func(g termination.Group) bool { return g.Name != "c" })
	require.NoError(t, err)
	require.Len(t, all, 2)
	a, b := all[0], all[1]
	require.Equal(t, "a", a.Name)
	require.Equal(t, []string{"eu-west-1a", "eu-west-1b"}, a.Zones)
	require.Equal(t, []string{"AZRebalance", "Launch"}, a.Suspended)
	require.Equal(t, 90, a.MinHealthy)
	require.True(t, a.Retains)
	require.Equal(t, []NamedHook{
		{"quiesce", termination.Hook{HeartbeatTimeout: 20 * time.Minute, GlobalTimeout: 2000 * time.Minute, DefaultResult: termination.Continue}},
		{"launch", termination.Hook{HeartbeatTimeout: time.Hour, GlobalTimeout: 48 * time.Hour, DefaultResult: termination.Abandon, Launching: true}},
	}, a.Hooks)
	require.Equal(t, "b", b.Name)
	require.Equal(t, NoPolicy, b.MinHealthy)
	require.False(t, b.Retains)
	require.Empty(t, b.Hooks)
}

func TestSettings_ServiceFails_IsAnError(t *testing.T) {
	server, config := awstest.Serve(t)
	server.AddGroup("a")
	server.Fail("autoscaling", "DescribeLifecycleHooks", awstest.Fault{Code: 403, ErrorCode: "AccessDenied"})
	_, err := NewGroups(config).Settings(t.Context(), func(termination.Group) bool { return true })
	require.ErrorContains(t, err, "describe the hooks of a")
}
