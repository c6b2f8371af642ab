package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

// An event has only the group's name. A group that is ours by its tag was taken for somebody else's.
func TestGroups_ByTagOnly_TaggedOneIsDrainedAndOthersAreNotOurs(t *testing.T) {
	s := newFixture(t, 2)
	s.function = s.start(`autoScalingGroups: [{tag: "k8s.io/cluster/prod=owned"}]
mode: drain
lifecycle: {manageHooks: true}`)
	s.deploy("web", 4)
	target, other := s.instances[0], s.instances[1]

	untagged := s.drain(other)
	require.Equal(t, termination.StatusSkipped, untagged.Status, untagged.ErrorMessage)
	require.Equal(t, "group "+s.group+" is not managed by quiesce", untagged.Reason)
	require.Empty(t, s.AWS.Completions(other.ID))
	require.Empty(t, s.AWS.Heartbeats(other.ID))
	require.Empty(t, s.requests(s.function), "the cluster is not even asked")
	require.Equal(t, []string{"DescribeAutoScalingGroups"}, s.scalingCalls())

	s.AWS.TagGroup(s.group, map[string]string{"k8s.io/cluster/prod": "owned"})
	before := len(s.podsOn(target))
	require.NotZero(t, before)
	report := s.drain(target)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, report.Pods, before)
	require.Empty(t, s.podsOn(target))
	require.Len(t, s.AWS.Completions(target.ID), 1)
	described := 0
	for _, action := range s.scalingCalls()[1:] {
		if action == "DescribeAutoScalingGroups" {
			described++
		}
	}
	require.Equal(t, 1, described, "one request tells tags and peers")

	s.AWS.AddGroup(s.group) // without its hook
	swept := s.sweep()
	require.Equal(t, 1, swept.HooksPut, "%+v", swept)
	require.Equal(t, []awstest.Hook{{
		Name: "quiesce", Transition: awstest.Terminating, HeartbeatTimeout: 20 * time.Minute, GlobalTimeout: 2000 * time.Minute,
		DefaultResult: "CONTINUE", Metadata: `{"managedBy":"quiesce-lab"}`,
	}}, s.AWS.HooksOf(s.group))
}

// scalingCalls returns the actions that the function asked Auto Scaling for, in order.
func (s *fixture) scalingCalls() (actions []string) {
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		if call.Service == "autoscaling" {
			actions = append(actions, call.Action)
		}
	}
	return actions
}
