package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const onScheduledChange = "drain: {onScheduledChange: true}"

// EC2 would stop the instance without a signal to its pods.
func TestScheduledRetirement_HealthEvent_DrainedBefore(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0, onScheduledChange)
	target := p.instances[0]
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	retirement := awstest.ScheduledEvent{Code: "instance-retirement", Description: "degraded hardware", NotBefore: time.Now().Add(20 * time.Hour)}
	p.AWS.Schedule(target.ID, retirement)

	p.send(p.healthEvent(target))
	p.deliver(1)
	p.awaitEmptyQueue()
	require.Equal(t, "Terminating:Wait", p.AWS.State(target.ID))
	looked := p.logLines("event handled")[0].Report
	require.Equal(t, termination.StatusSwept, looked.Status)
	require.Len(t, looked.ScheduledChanges, 1)
	require.True(t, looked.ScheduledChanges[0].Replaced)
	require.EqualValues(t, 1, p.metricSum("InstancesReplaced"))

	events := p.AWS.Events(p.group)
	require.Len(t, events, 1, "one termination")
	p.send(events[0].Body)
	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
	drained := p.logLines("event handled")[1].Report
	require.Equal(t, termination.StatusDrained, drained.Status)
	require.True(t, drained.FinishedAt.Before(retirement.NotBefore))
}

// Anyone who may invoke the function can send an event of AWS Health.
func TestHealthEvent_ForgedOrOff_NothingTerminated(t *testing.T) {
	s := newFixture(t, 1, onScheduledChange)
	target := s.instances[0]
	forged := s.invoke(s.healthEvent(target))
	require.Equal(t, termination.StatusSkipped, forged.Status)
	require.Equal(t, "AWS Health Event: EC2 has scheduled no change of these instances", forged.Reason)

	s.AWS.Schedule(target.ID, awstest.ScheduledEvent{Code: "instance-stop", NotBefore: time.Now().Add(time.Hour)})
	off := s.invokeOn(s.newFunction(), s.healthEvent(target))
	require.Equal(t, termination.StatusSkipped, off.Status)
	require.Contains(t, off.Reason, "drain.onScheduledChange is off")
	shadow := s.invokeOn(s.newFunction("mode: shadow", onScheduledChange), s.healthEvent(target))
	require.Equal(t, "shadow mode: would be replaced now", shadow.ScheduledChanges[0].Reason)
	require.Equal(t, "InService", s.AWS.State(target.ID))
	require.Empty(t, s.requests(s.function), "without a request to the cluster")
}

// It is too late to drain. Only a person can find out who does that.
func TestStateChange_StoppedInEC2_Reported(t *testing.T) {
	s := newFixture(t, 2)
	target := s.instances[0]
	stopped := sample(t, "state-change", func(event object) { event["detail"].(object)["instance-id"] = target.ID })
	require.Equal(t, termination.StatusRejected, s.invoke(stopped).Status, "it runs")

	s.AWS.StopInEC2(target.ID, "stopping", "Client.UserInitiatedShutdown")
	report := s.invoke(stopped)
	require.Equal(t, termination.StatusSkipped, report.Status)
	require.Contains(t, report.Reason, "stopped while it was InService (Client.UserInitiatedShutdown): too late to drain")
	const warning = `"msg":"instance stopped without its hook"`
	require.Equal(t, 1, strings.Count(s.function.Output(), warning))

	require.Equal(t, termination.StatusDrained, s.drain(s.instances[1]).Status)
	inOrder := s.invoke(sample(t, "state-change", func(event object) { event["detail"].(object)["instance-id"] = s.instances[1].ID }))
	require.Equal(t, termination.StatusSkipped, inOrder.Status)
	require.Equal(t, 1, strings.Count(s.function.Output(), warning), "a termination in good order")
}

// healthEvent returns a sample event of AWS Health that names the instance.
func (s *fixture) healthEvent(i env.Instance) []byte {
	return sample(s.T, "health-scheduled-change", func(event object) {
		event["detail"].(object)["affectedEntities"].([]any)[0].(object)["entityValue"] = i.ID
	})
}
