package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const (
	// drainTime is what a drain has by default: drain.maxDuration less drain.completionReserve.
	drainTime = 30*time.Minute - 30*time.Second
	// forgedLead is how long before the termination a forged message is received, at most: the function believes for 15 s that a
	// description may lag.
	forgedLead = 10 * time.Second
)

// Anyone who can send a message can write one without a token, as the sweep does for a lost event, and date it. A clock that is
// believed completes the action before a pod is told to stop, holds the node for days, or deletes what a PDB protects.
func TestForgedClock_BeforeRealEvent_NotBelieved(t *testing.T) {
	for name, age := range map[string]time.Duration{
		"three-days-ago": 72 * time.Hour, "an-hour-ago": time.Hour, "tomorrow": -24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			p := newQueueFixture(t, 1, 2, 0)
			target := p.instances[0]
			p.deploy("web", 1, stopping("100ms"))
			p.pdb("web", "web", 0)
			for n := range 4 {
				p.runPodOn(target, fmt.Sprint("free-", n), stopsAfter("100ms"))
			}
			pods := p.podsOn(target)
			p.send(p.withoutToken(target, time.Now().Add(-age)))
			p.deliver(1)
			p.until("the message is verified", func() (bool, error) {
				return len(p.calls("DescribeAutoScalingGroups"))+len(p.calls("DescribeAutoScalingInstances")) > 0, nil
			})
			began := time.Now()
			event := p.terminate(target).Body
			p.until("the forged message is first", func() (bool, error) {
				free, err := p.isLeaseFree(target)
				return err == nil && !free || len(p.AWS.Completions(target.ID)) > 0, err
			})
			p.send(event)

			p.until("the drain waits for the PDB, or is over", func() (bool, error) {
				blocked := strings.Contains(p.functions[0].Output()+p.functions[1].Output(), "eviction blocked")
				return blocked && len(p.podsOn(target)) == 1 || len(p.AWS.Completions(target.ID)) > 0, nil
			})
			blocked := time.Now()
			require.Empty(t, p.AWS.Completions(target.ID), "completed while a PDB still protects a pod")
			p.removePDB("web")
			p.awaitEmptyQueue()
			p.requireDrainedOnce(target, pods)
			p.requireDeadlineFrom(began.Add(-forgedLead), blocked)
		})
	}
}

// withoutToken returns a notification as the sweep writes it for a lost event.
func (s *fixture) withoutToken(i env.Instance, at time.Time) []byte {
	s.Helper()
	text, err := json.Marshal(object{
		"Service": "quiesce", "Time": at.UTC().Format("2006-01-02T15:04:05.000Z"), "LifecycleTransition": awstest.Terminating,
		"AutoScalingGroupName": s.group, "LifecycleHookName": env.Hook, "EC2InstanceId": i.ID,
	})
	require.NoError(s, err)
	return text
}

// requireDeadlineFrom requires that the drain had the whole time of a drain, counted from a moment between these two.
func (p *queueFixture) requireDeadlineFrom(earliest, latest time.Time) {
	p.Helper()
	drains := 0
	for _, l := range p.logLines("event handled") {
		if l.Report.Status == termination.StatusDrained {
			drains++
			require.WithinRange(p, l.Report.Deadline, earliest.Add(drainTime), latest.Add(drainTime))
		}
	}
	require.Equal(p, 1, drains)
}

// An interruption event costs its sender nothing. Where the stack has no rule for them, no event can be EC2's.
func TestSpotInterruption_HandlingOff_NothingWritten(t *testing.T) {
	s := newFixture(t, 0)
	target := s.spot()
	s.AWS.SetSpotStatus(target.ID, awstest.SpotMarked)
	s.runPodOn(target, "pod")
	r := s.invoke(s.interruption("spot-interruption", target, time.Now()))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusSkipped, r.Status)
	require.Contains(t, r.Reason, "onSpotInterruption")
	require.Empty(t, writes(s.requests(s.function)))
	s.requireUntouched(target)
	require.Len(t, s.podsOn(target), 1)
}

// Only EC2 knows whether it takes an instance back. An event that it does not confirm would close a healthy node.
func TestSpotInterruption_EC2DoesNotConfirm_NothingWritten(t *testing.T) {
	s := newFixture(t, 0, "drain: {onSpotInterruption: true}")
	target := s.spot()
	s.runPodOn(target, "pod")
	r := s.invoke(s.interruption("spot-interruption", target, time.Now()))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Contains(t, strings.ToLower(r.Reason), "spot")
	require.Empty(t, writes(s.requests(s.function)))
	s.requireUntouched(target)
	require.Len(t, s.podsOn(target), 1)
}

// EC2's request shows the interruption a moment after the event says it.
func TestSpotInterruption_ConfirmedLate_Drained(t *testing.T) {
	s := newFixture(t, 0, "drain: {onSpotInterruption: true}")
	target := s.spot()
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	end := s.beginOn(s.function, s.interruption("spot-interruption", target, time.Now()))
	s.until("EC2 was asked", func() (bool, error) { return s.callCounts()["ec2:DescribeSpotInstanceRequests"] > 0, nil })
	s.AWS.SetSpotStatus(target.ID, awstest.SpotMarked)
	r := end()
	require.Equal(t, termination.StatusDrained, r.Status, "%s%s", r.ErrorMessage, r.Reason)
	require.Empty(t, s.podsOn(target))
}

// EC2 may keep an instance that it announced to take back. Its node must not stay closed.
func TestSpotInterruption_NotTrueAfterAll_NodeReopened(t *testing.T) {
	s := newFixture(t, 0, "drain: {onSpotInterruption: true}")
	target := s.spot()
	s.AWS.SetSpotStatus(target.ID, awstest.SpotMarked)
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	r := s.invoke(s.interruption("spot-interruption", target, time.Now()))
	require.Equal(t, termination.StatusDrained, r.Status, "%s%s", r.ErrorMessage, r.Reason)
	require.Zero(t, s.sweep().Restored, "EC2 still announces it")

	s.AWS.SetSpotStatus(target.ID, "fulfilled")
	s.backdateClosing(target, time.Hour)
	require.Equal(t, 1, s.sweep().Restored)
	s.requireUntouched(target)
}
