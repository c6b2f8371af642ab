package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const onSpot = "drain: {onSpotInterruption: true}"

// EC2 takes a Spot instance back after two minutes, whatever its hooks say.
func TestSpotInterruption_Queued_DrainedNotCompleted(t *testing.T) {
	p := newQueueFixture(t, 0, 1, 0, onSpot)
	target := p.spot()
	before := time.Now().Truncate(time.Millisecond)
	p.AWS.SetSpotStatus(target.ID, awstest.SpotMarked)
	marked := time.Now()
	p.runPodOn(target, "pod", stopsAfter("1s"))
	began := time.Now()
	p.send(p.interruption("spot-interruption", target, began), p.interruption("rebalance-recommendation", target, began))
	p.deliver(1)
	p.awaitEmptyQueue()
	require.Empty(t, p.podsOn(target))
	require.True(t, p.node(target).Spec.Unschedulable)
	require.Equal(t, "InService", p.AWS.State(target.ID))
	require.Empty(t, p.AWS.Completions(target.ID))
	require.Empty(t, p.AWS.Heartbeats(target.ID))
	done := p.logLines("event handled")
	require.Len(t, done, 2)
	require.Equal(t, termination.StatusDrained, done[0].Report.Status)
	require.Equal(t, termination.SpotInterruption, done[0].Report.Trigger)
	require.WithinRange(t, done[0].Report.Deadline, before.Add(100*time.Second), marked.Add(100*time.Second),
		"counted from the mark of EC2, which is earlier than the event")
	require.Equal(t, termination.StatusSkipped, done[1].Report.Status)
	require.Contains(t, done[1].Report.Reason, "onRebalanceRecommendation is off")
}

func TestRebalanceRecommendation_Enabled_Drained(t *testing.T) {
	p := newQueueFixture(t, 0, 1, 0, "drain: {onRebalanceRecommendation: true}")
	target := p.spot()
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	p.send(p.interruption("rebalance-recommendation", target, time.Now()))
	p.deliver(1)
	p.awaitEmptyQueue()
	require.Empty(t, p.podsOn(target))
	require.Equal(t, termination.StatusDrained, p.logLines("event handled")[0].Report.Status)
	require.Empty(t, p.AWS.Completions(target.ID))
}

// An interruption event names no group, and anyone who may invoke the function can send one. Without confirmation by Auto Scaling
// and EC2 nothing is drained.
func TestSpotInterruption_NotConfirmed_NothingDrained(t *testing.T) {
	s := newFixture(t, 1, onSpot)
	s.runPodOn(s.instances[0], "pod")
	now := time.Now()
	forged := s.invoke(s.interruption("spot-interruption", s.spot(), now))
	require.Equal(t, termination.StatusRejected, forged.Status, "its request is fulfilled, and not marked")

	onDemand := s.invoke(s.interruption("spot-interruption", s.instances[0], now))
	require.Equal(t, termination.StatusRejected, onDemand.Status)
	require.Contains(t, onDemand.Reason, "is not a Spot instance")

	foreign := s.group + "-other"
	s.AWS.AddGroup(foreign)
	neighbor := s.instanceWithoutNode(foreign, "neighbor")
	require.Equal(t, termination.StatusSkipped, s.invoke(s.interruption("spot-interruption", neighbor, now)).Status)
	require.Empty(t, s.requests(s.function), "without a request to the cluster")
}

func TestSpotInterruption_NotConfigured_Skipped(t *testing.T) {
	s := newFixture(t, 0)
	target := s.spot()
	s.AWS.SetSpotStatus(target.ID, awstest.SpotMarked)
	report := s.invoke(s.interruption("spot-interruption", target, time.Now()))
	require.Equal(t, termination.StatusSkipped, report.Status)
	require.Contains(t, report.Reason, "onSpotInterruption is off")
}

// spot adds a Spot instance to the fixture's group, with its node.
func (s *fixture) spot() env.Instance {
	s.Helper()
	i, err := s.SpotInstance(s.ctx, s.group)
	require.NoError(s, err)
	return i
}

// interruption returns a sample event of EC2 about the instance.
func (s *fixture) interruption(name string, i env.Instance, at time.Time) []byte {
	return sample(s.T, name, func(event object) {
		event["time"] = at.UTC().Format(time.RFC3339Nano)
		event["detail"].(object)["instance-id"] = i.ID
	})
}
