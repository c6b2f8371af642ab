package asg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

var ourTag = map[string]string{"k8s.io/cluster/prod": "owned"}

// namings are the ways to say that the group workers-a, and new ones like it, are ours.
var namings = map[string]config.Groups{
	"name": {Names: config.Globs{"workers-a", "workers-b"}},
	"glob": {Names: config.Globs{"workers-*"}},
	"tag":  {Tags: []config.Tag{{Key: "k8s.io/cluster/prod", Value: "owned"}}},
}

func policyFor(groups config.Groups, manage bool) termination.Policy {
	return termination.Policy{
		Owns: groups.Match, GroupsByTag: len(groups.Tags) > 0, GroupNames: groups.Listed(), Hook: hookName,
		HeartbeatTimeout: 20 * time.Minute, OnFailure: termination.Continue, ManageHooks: manage, ManagedBy: "quiesce-prod",
	}
}

// sweeper returns what runs one sweep with these adapters. The cluster is unreachable, which hooks do not need.
func sweeper(t *testing.T, groups *Groups, hooks *Hooks, p termination.Policy) func() termination.SweepReport {
	h := &termination.Handler{
		Parse: Parse, EncodeEvent: EncodeEvent, Groups: groups, Hooks: hooks, Policy: p, Log: slog.New(slog.DiscardHandler),
		Connect: func(context.Context) (termination.Kubernetes, error) { return nil, errors.New("unreachable") },
	}
	return func() termination.SweepReport {
		t.Helper()
		answer, err := h.Invoke(t.Context(), []byte(`{"action":"sweep"}`))
		require.NoError(t, err)
		report := answer.(termination.SweepReport)
		require.Equal(t, []string{"unreachable"}, report.Errors)
		return report
	}
}

// isYoungest makes a group just as old as one that has its first look where others put hooks.
func isYoungest(server *awstest.Server, group string) {
	server.BackdateGroup(group, 10*time.Minute+time.Second)
}

// The life of groups at Auto Scaling's own API: a group appears, loses its hook, is replaced by one of another name, and is deleted.
func TestSweep_GroupsComeAndGo_HooksFollow(t *testing.T) {
	for naming, named := range namings {
		for _, manage := range []bool{true, false} {
			t.Run(fmt.Sprint(naming, ", manageHooks ", manage), func(t *testing.T) {
				server, groups, hooks := account(t)
				server.TagGroup(group, ourTag)
				server.AddGroup("theirs")
				sweep := sweeper(t, groups, hooks, policyFor(named, manage))
				requireSwept := func(group string, isOurs bool) {
					t.Helper()
					report := sweep()
					require.Equal(t, isOurs && manage, report.HooksPut == 1)
					require.Equal(t, isOurs && !manage, report.GroupsWithoutHook == 1, report)
					require.Equal(t, isOurs && manage, len(server.HooksOf(group)) == 1)
				}

				server.AddGroup("workers-b")
				server.TagGroup("workers-b", ourTag)
				if !manage {
					isYoungest(server, "workers-b")
				}
				requireSwept("workers-b", true)

				server.AddGroup("workers-b") // without its hook
				requireSwept("workers-b", true)

				server.RemoveGroup("workers-b")
				server.AddGroup("workers-2")
				server.TagGroup("workers-2", ourTag)
				if !manage {
					isYoungest(server, "workers-2")
				}
				requireSwept("workers-2", naming != "name")

				server.AddGroup("workers-2")
				server.DeleteGroup("workers-2")
				report := sweep()
				require.Zero(t, report.HooksPut+report.GroupsWithoutHook)
				require.Empty(t, server.HooksOf("theirs"))
			})
		}
	}
}

func TestPut_Hook_HasSettingsOfStackAndMark(t *testing.T) {
	server, groups, hooks := account(t)
	server.AddGroup("workers-b")
	keeper := termination.HookKeeper{
		Groups: groups, Hooks: hooks, Policy: policyFor(namings["glob"], true), Log: slog.New(slog.DiscardHandler),
	}
	put, err := keeper.PutMissing(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"workers-b"}, put)
	require.Equal(t, []awstest.Hook{{
		Name: hookName, Transition: awstest.Terminating, HeartbeatTimeout: 20 * time.Minute, GlobalTimeout: 2000 * time.Minute,
		DefaultResult: "CONTINUE", Metadata: `{"managedBy":"quiesce-prod"}`,
	}}, server.HooksOf("workers-b"))
	described, err := hooks.Describe(t.Context(), "workers-b", hookName)
	require.NoError(t, err)
	require.Equal(t, "quiesce-prod", described.ManagedBy)
	put, err = keeper.PutMissing(t.Context())
	require.NoError(t, err)
	require.Empty(t, put)

	// An instance that waits on a hook that is removed goes on.
	const second = "i-0fedcba9876543210"
	server.AddInstance("workers-b", awstest.Instance{ID: second})
	event := server.Terminate(second)[0].Body
	require.Contains(t, string(event), "managedBy")
	require.Equal(t, hookName, Parse(event).Records[0].Termination.Hook)
	removed, err := keeper.RemoveOurs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"workers-b"}, removed)
	require.Equal(t, "Terminating:Proceed", server.State(second))
	require.Len(t, server.HooksOf(group), 1, "the stack put it, and removes it itself")
}

func TestDescribe_ForeignMetadata_IsNotOurMark(t *testing.T) {
	server, _, hooks := account(t)
	for _, metadata := range []string{"", "additional-info", `["managedBy"]`, `{"managedBy":7}`, `{"managed":"quiesce-prod"}`} {
		server.AddGroup(group, awstest.Hook{Name: hookName, Metadata: metadata})
		described, err := hooks.Describe(t.Context(), group, hookName)
		require.NoError(t, err, metadata)
		require.Empty(t, described.ManagedBy, metadata)
	}
	server.AddGroup(group, awstest.Hook{Name: hookName, Transition: awstest.Launching})
	described, err := hooks.Describe(t.Context(), group, hookName)
	require.NoError(t, err)
	require.True(t, described.Launching)
}

func TestPut_Refused_ErrorNamesGroup(t *testing.T) {
	server, _, hooks := account(t)
	denied := awstest.Fault{Code: http.StatusForbidden, ErrorCode: "AccessDenied", Message: "not authorized"}
	server.Fail("autoscaling", "PutLifecycleHook", denied)
	server.Fail("autoscaling", "DeleteLifecycleHook", denied)
	err := hooks.Put(t.Context(), group, hookName, termination.Hook{HeartbeatTimeout: time.Hour, DefaultResult: termination.Abandon})
	require.ErrorContains(t, err, "put hook quiesce of workers-a")
	require.ErrorContains(t, hooks.Delete(t.Context(), group, hookName), "delete hook quiesce of workers-a")
}
