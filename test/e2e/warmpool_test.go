package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// eventOf returns the event of our hook.
func (s *fixture) eventOf(events []awstest.Event) []byte {
	s.Helper()
	for _, event := range events {
		if event.Hook == env.Hook {
			return event.Body
		}
	}
	require.Fail(s, "no event for our hook")
	return nil
}

// A group with a warm pool that reuses instances scales in by stopping them. Their pods need a signal as on any other instance.
// DescribeAutoScalingGroups does not list them.
func TestWarmPool_InstanceReturns_Drained(t *testing.T) {
	s := newFixture(t, 1)
	s.AWS.AddWarmPool(s.group)
	target := s.instances[0]
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	r := s.invoke(s.eventOf(s.AWS.ReturnToWarmPool(target.ID)))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status, r.Reason)
	require.Empty(t, s.podsOn(target))
	s.requireCompletedOnce(target)
	s.until("it is stopped in the warm pool", func() (bool, error) { return s.AWS.State(target.ID) == "Warmed:Stopped", nil })
}

// An instance of a warm pool that terminates waits on our hook too, most often without a node. Otherwise it waits for the whole
// timeout, for nothing.
func TestWarmPool_InstanceTerminates_CompletedAtOnce(t *testing.T) {
	s := newFixture(t, 1, "drain: {nodeJoinTimeout: 1s}")
	s.AWS.AddWarmPool(s.group)
	running, stopped := s.instances[0], s.instanceWithoutNode(s.group, "stopped-"+s.group)
	s.runPodOn(running, "pod", stopsAfter("100ms"))
	s.AWS.SetState(running.ID, "Warmed:Running")
	s.AWS.SetState(stopped.ID, "Warmed:Stopped")

	r := s.drain(running)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status, r.Reason)
	require.Empty(t, s.podsOn(running))
	s.requireCompletedOnce(running)

	r = s.drain(stopped)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, nodeNotFound, r.Status, r.Reason)
	s.requireCompletedOnce(stopped)
}

// Launch hooks hold instances in the same state on their way into the pool. No action of ours is active then.
func TestWarmPool_HeldByLaunchHook_Rejected(t *testing.T) {
	s := newFixture(t, 1)
	s.AWS.AddWarmPool(s.group)
	target := s.instances[0]
	s.runPodOn(target, "pod")
	s.AWS.SetState(target.ID, "Warmed:Pending:Wait")
	r := s.invoke(forgedEvent(t, s.group, target))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Empty(t, writes(s.requests(s.function)))
	require.Len(t, s.podsOn(target), 1)
}

// The event of an instance in a warm pool can get lost like any other.
func TestSweep_WarmPoolInstanceWaits_KeptAliveAndResent(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0)
	p.AWS.AddWarmPool(p.group)
	target := p.instances[0]
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	p.AWS.ReturnToWarmPool(target.ID) // its event is lost
	p.AWS.Backdate(target.ID, 3*time.Minute)
	r := p.sweep()
	require.Empty(t, r.Errors)
	require.Equal(t, 1, r.Waiting)
	require.Equal(t, 1, r.Heartbeats)
	require.Equal(t, 1, r.EventsResent)

	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
}
