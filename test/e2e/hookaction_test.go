package e2e

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// A retained instance that is terminated again fires its hook again. With the clock of the first event the pods would have no
// time, and its token would complete nothing.
func TestEvent_EarlierAction_PresentActionUsed(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	stale := changeJSON(t, s.terminate(target).Body, func(event object) {
		event["time"] = time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	})
	s.AWS.SetState(target.ID, "Terminating:Retained")
	s.runPodOn(target, "pod", stopsAfter("2s"))
	fresh := s.terminate(target)

	r := s.invoke(stale)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Greater(t, time.Until(r.Deadline), 20*time.Minute, "the clock is that of the present action")
	s.requireCompletedOnce(target)
	require.Equal(t, fresh.Token, s.AWS.Completions(target.ID)[0].Token)
	require.Equal(t, termination.StatusRejected, s.invoke(fresh.Body).Status, "and its own event comes too late")
}

// Where a group retains abandoned instances, a failed drain keeps the instance for inspection. Later it is terminated again and
// drained as if for the first time.
func TestEvent_RetainedInstance_DrainedWhenTerminatedAgain(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.AWS.RetainAbandoned(s.group)
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	lost := s.start("autoScalingGroups: ["+s.group+"]\nmode: drain\nlifecycle: {onFailure: ABANDON}\ndrain: {maxDuration: 2s, completionReserve: 0s}",
		"QUIESCE_CLUSTER_ENDPOINT=https://127.0.0.1:1", "QUIESCE_CLUSTER_CA="+base64.StdEncoding.EncodeToString(s.Lab.CA()))
	first := s.terminate(target)
	received := fmt.Sprint(time.Now().UnixMilli())
	s.until("the instance is retained", func() (bool, error) {
		s.sendTo(lost, sample(t, "sqs", func(batch object) { // fails while there is time, so that it is delivered again
			records(batch)[0]["body"] = string(first.Body)
			records(batch)[0]["attributes"].(object)["ApproximateFirstReceiveTimestamp"] = received
		}))
		return s.AWS.State(target.ID) == "Terminating:Retained", nil
	})
	require.Len(t, s.podsOn(target), 1)
	require.Equal(t, awstest.Abandon, s.AWS.Completions(target.ID)[0].Result)
	listed := s.sweep().Retained
	require.Len(t, listed, 1)
	require.Equal(t, target.ID, listed[0].InstanceID)
	require.WithinRange(t, listed[0].Since, s.AWS.Completions(target.ID)[0].At.Add(-time.Second), time.Now())

	second := s.terminate(target)
	require.NotEqual(t, first.Token, second.Token)
	require.Equal(t, termination.StatusDrained, s.invoke(second.Body).Status)
	require.Empty(t, s.podsOn(target))
	completions := s.AWS.Completions(target.ID)
	require.Len(t, completions, 2)
	require.Equal(t, second.Token, completions[1].Token)
	require.Equal(t, awstest.Continue, completions[1].Result)
}

// Managed node groups have a hook of EKS. While that hook holds the instance, a duplicate event belongs to a completed action of
// an instance that still waits.
func TestEvent_DuplicateWhileOtherHookWaits_NotCompletedAgain(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.AWS.AddGroup(s.group, awstest.Hook{Name: env.Hook}, awstest.Hook{Name: "Terminate-LC-Hook"})
	event := s.terminate(target).Body
	require.Equal(t, termination.StatusDrained, s.invoke(event).Status)
	require.Equal(t, "Terminating:Wait", s.AWS.State(target.ID))

	again := changeJSON(t, event, func(event object) { event["time"] = time.Now().Add(-90 * time.Second).UTC().Format(time.RFC3339) })
	r := s.invoke(again)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Contains(t, r.Reason, "waits on another hook")
	s.requireCompletedOnce(target)
	require.Equal(t, "Terminating:Wait", s.AWS.State(target.ID))
}
