package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// sweep sweeps once.
func (s *scene) sweep() (r termination.SweepReport) {
	s.Helper()
	return s.sweepBy(s.function)
}

func (s *scene) sweepBy(f *env.Function) (r termination.SweepReport) {
	s.Helper()
	result := s.sendTo(f, read(s.T, "sweep"))
	require.Empty(s, result.ErrorType, result.ErrorMessage)
	require.NoError(s, json.Unmarshal(result.Payload, &r), "%s", result.Payload)
	return r
}

// An event that is lost is a node that nobody drains: its hook runs out, and its pods die unsignalled.
func TestAnInstanceWhoseEventWasLostIsFoundAndDrained(t *testing.T) {
	p := setPost(t, 2, 1, 0)
	victim := p.instances[0]
	p.podOn(victim, "pod", stopsAfter("100ms"))
	p.terminate(victim) // and its event is lost
	young := p.sweep()
	require.Equal(t, 1, young.Waiting)
	require.Equal(t, 1, young.Heartbeats)
	require.Zero(t, young.EventsResent, "its event may yet come")
	p.AWS.Backdate(victim.ID, 3*time.Minute)

	r := p.sweep()
	require.Equal(t, 1, r.Groups)
	require.Equal(t, 1, r.EventsResent, "%+v", r)
	require.Empty(t, r.Errors)
	require.Len(t, p.AWS.Heartbeats(victim.ID), 2)
	require.Len(t, p.podsOn(victim), 1, "a sweep never drains")
	require.Empty(t, writes(p.requests(p.function)))
	require.Zero(t, p.sweep().EventsResent, "while it waits in the queue")
	require.EqualValues(t, 3, p.measured("Sweeps"))
	require.EqualValues(t, 3, p.measured("InstancesWaiting"))
	require.EqualValues(t, 1, p.measured("EventsResent"))

	p.deliver(1)
	p.handled()
	p.completedOnce(victim)
	require.Empty(t, p.podsOn(victim))
	done := p.said("done")[0].Report
	require.Equal(t, termination.StatusDrained, done.Status)
	require.Less(t, time.Until(done.Deadline), 27*time.Minute, "its clock has run since it began to wait")
	require.Zero(t, p.sweep().Waiting)
}

// Messages that wait may be those of the instances that wait: to enqueue these again would double a queue that is too long already.
func TestNothingIsEnqueuedWhileMessagesWait(t *testing.T) {
	p := setPost(t, 1, 1, 0)
	p.terminate(p.instances[0])
	p.AWS.Backdate(p.instances[0].ID, 10*time.Minute)
	p.send([]byte("anybody's"))
	r := p.sweep()
	require.Equal(t, 1, r.Messages)
	require.Equal(t, 1, r.Heartbeats, "but it is kept alive")
	require.Zero(t, r.EventsResent)
	require.Len(t, p.messages(), 1)
}

func TestAnInstanceThatIsDrainedIsLeftToItsOwner(t *testing.T) {
	p := setPost(t, 1, 2, 0)
	victim := p.instances[0]
	p.deploy("slow", 1)
	p.budget("slow", "slow", 0)
	end := p.begin(victim)
	p.logs("eviction blocked") // the drain is under way, and goes on until somebody lets it end
	p.AWS.Backdate(victim.ID, 10*time.Minute)
	beats := len(p.AWS.Heartbeats(victim.ID))
	r := p.sweepBy(p.functions[1])
	require.Equal(t, 1, r.Draining)
	require.Zero(t, r.Heartbeats)
	require.Zero(t, r.EventsResent)
	require.Len(t, p.AWS.Heartbeats(victim.ID), beats)
	p.removeBudget("slow")
	require.Equal(t, termination.StatusDrained, end().Status)
}

// What waits on another hook, such as EKS' own, is not ours to keep alive.
func TestAnInstanceThatWaitsOnAnotherHookIsLeftAlone(t *testing.T) {
	p := setPost(t, 1, 1, 0)
	victim := p.instances[0]
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook}, awstest.Hook{Name: "Terminate-LC-Hook"})
	require.Equal(t, termination.StatusDrained, p.drain(victim).Status)
	require.Equal(t, "Terminating:Wait", p.AWS.State(victim.ID))
	p.AWS.Backdate(victim.ID, 10*time.Minute)
	beats := len(p.AWS.Heartbeats(victim.ID))
	r := p.sweep()
	require.Equal(t, 1, r.Waiting)
	require.Zero(t, r.Heartbeats)
	require.Zero(t, r.EventsResent)
	require.Empty(t, r.Errors)
	require.Len(t, p.AWS.Heartbeats(victim.ID), beats)
}

// An instance of a warm pool comes back without any event. Its node would stay closed: capacity that is paid for and not used.
func TestANodeThatCameBackIsOpenedBySweeping(t *testing.T) {
	s := setScene(t, 2)
	clean, held := s.instances[0], s.instances[1]
	s.change(held, `{"spec":{"unschedulable":true}}`)
	for _, i := range s.instances {
		require.Equal(t, termination.StatusDrained, s.drain(i).Status)
		s.AWS.SetState(i.ID, "InService")
	}
	require.Zero(t, s.sweep().Restored, "descriptions can lag: it may be in the middle of its drain")
	for _, i := range s.instances {
		s.age(i, time.Hour)
	}
	require.Equal(t, 2, s.sweep().Restored)
	require.False(t, s.node(clean).Spec.Unschedulable)
	require.NotContains(t, s.node(clean).Labels, excludeLabel)
	require.True(t, s.node(held).Spec.Unschedulable, "an admin had closed it")
	for _, i := range s.instances {
		require.NotContains(t, s.node(i).Annotations, markKey)
		free, err := s.leaseFree(i)
		require.NoError(t, err)
		require.True(t, free)
	}
}

// age makes a node's mark that much older.
func (s *scene) age(i env.Instance, d time.Duration) {
	s.Helper()
	mark := changed(s.T, []byte(s.node(i).Annotations[markKey]), func(m object) {
		m["cordoned"] = time.Now().Add(-d).UTC().Format(time.RFC3339)
	})
	patch, err := json.Marshal(object{"metadata": object{"annotations": object{markKey: string(mark)}}})
	require.NoError(s, err)
	s.change(i, string(patch))
}

const (
	manyGroups = 500 // as many as an account may have
	manyWait   = 200
	groupsWait = 50 // that have some of them
)

// A sweep comes each minute, and Auto Scaling counts requests for the whole account, deployments and all.
func TestASweepOfFiveHundredGroupsCostsLittle(t *testing.T) {
	s := setScene(t, 0)
	queue := s.Queue(s.group)
	configuration := "mode: drain\nautoScalingGroups:\n"
	for n := range manyGroups {
		name := fmt.Sprintf("%s-%d", s.group, n)
		configuration += "  - " + name + "\n"
		s.AWS.AddGroup(name, awstest.Hook{Name: env.Hook})
	}
	for n := range manyWait {
		i := s.unjoined(fmt.Sprintf("%s-%d", s.group, n%groupsWait), "nowhere")
		s.AWS.Terminate(i.ID)
		s.AWS.Backdate(i.ID, 10*time.Minute)
	}
	s.function = s.start(configuration, queue.Environment()...)

	r := s.sweep()
	require.Equal(t, manyGroups, r.Groups)
	require.Equal(t, manyWait, r.Waiting)
	require.Equal(t, manyWait, r.Heartbeats)
	require.Equal(t, manyWait, r.EventsResent)
	require.Empty(t, r.Errors)
	first := s.tally()
	t.Logf("calls: %v; requests of Kubernetes: %d; took %v", first, len(s.requests(s.function)), r.FinishedAt.Sub(r.StartedAt))
	require.Equal(t, map[string]int{
		"autoscaling:DescribeAutoScalingGroups":      5,
		"autoscaling:DescribeLifecycleHooks":         groupsWait,
		"autoscaling:DescribeScalingActivities":      groupsWait,
		"autoscaling:RecordLifecycleActionHeartbeat": manyWait,
		"sqs:GetQueueAttributes":                     1,
		"sqs:SendMessage":                            manyWait,
		"eks:DescribeCluster":                        1,
	}, first)
	require.Len(t, s.requests(s.function), 2, "the leases, and the nodes that are closed")

	r = s.sweep()
	require.Equal(t, manyWait, r.Messages)
	require.Zero(t, r.EventsResent)
	again := s.tally()
	for action, n := range first {
		again[action] -= n
	}
	require.Zero(t, again["autoscaling:DescribeScalingActivities"])
	require.Zero(t, again["sqs:SendMessage"])
}

// tally counts the scene's function's calls of AWS.
func (s *scene) tally() map[string]int {
	calls := map[string]int{}
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		calls[call.Service+":"+call.Action]++
	}
	delete(calls, "sts:GetCallerIdentity") // which the cluster sends, to learn who asks
	return calls
}
