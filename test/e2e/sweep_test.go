package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// sweep invokes one sweep.
func (s *fixture) sweep() (r termination.SweepReport) {
	s.Helper()
	return s.sweepBy(s.function)
}

func (s *fixture) sweepBy(f *env.Function) (r termination.SweepReport) {
	s.Helper()
	result := s.sendTo(f, read(s.T, "sweep"))
	require.Empty(s, result.ErrorType, result.ErrorMessage)
	require.NoError(s, json.Unmarshal(result.Payload, &r), "%s", result.Payload)
	return r
}

// If an event is lost, its node is not drained: the hook expires, and the pods are killed without SIGTERM.
func TestSweep_EventLost_ResentAndDrained(t *testing.T) {
	p := newQueueFixture(t, 2, 1, 0)
	target := p.instances[0]
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	p.terminate(target) // its event is lost
	young := p.sweep()
	require.Equal(t, 1, young.Waiting)
	require.Equal(t, 1, young.Heartbeats)
	require.Zero(t, young.EventsResent, "its event may yet come")
	p.AWS.Backdate(target.ID, 3*time.Minute)

	r := p.sweep()
	require.Equal(t, 1, r.Groups)
	require.Equal(t, 1, r.EventsResent, "%+v", r)
	require.Empty(t, r.Errors)
	require.Len(t, p.AWS.Heartbeats(target.ID), 2)
	require.Len(t, p.podsOn(target), 1, "a sweep never drains")
	require.Empty(t, withoutLeases(writes(p.requests(p.function))))
	require.Zero(t, p.sweep().EventsResent, "while it waits in the queue")
	require.EqualValues(t, 3, p.metricSum("Sweeps"))
	require.EqualValues(t, 3, p.metricSum("InstancesWaiting"))
	require.EqualValues(t, 1, p.metricSum("EventsResent"))

	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
	done := p.logLines("event handled")[0].Report
	require.Equal(t, termination.StatusDrained, done.Status)
	require.Greater(t, time.Until(done.Deadline), 28*time.Minute, "its pods have the whole time, though the instance has waited")
	require.Zero(t, p.sweep().Waiting)
}

// withoutLeases returns the writes to other objects than Leases: a sweep deletes Leases that other tests leave.
func withoutLeases(writes []string) []string {
	return slices.DeleteFunc(writes, func(w string) bool { return strings.HasPrefix(w, "delete leases/") })
}

// Waiting messages may belong to the waiting instances. Sending those again would double a queue that is too long already.
func TestSweep_MessagesWaiting_NothingResent(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0)
	p.terminate(p.instances[0])
	p.AWS.Backdate(p.instances[0].ID, 10*time.Minute)
	p.send([]byte("another message"))
	r := p.sweep()
	require.Equal(t, 1, r.Messages)
	require.Equal(t, 1, r.Heartbeats, "the heartbeat is still sent")
	require.Zero(t, r.EventsResent)
	require.Len(t, p.messages(), 1)
}

func TestSweep_InstanceDraining_Skipped(t *testing.T) {
	p := newQueueFixture(t, 1, 2, 0)
	target := p.instances[0]
	p.deploy("slow", 1)
	p.pdb("slow", "slow", 0)
	end := p.begin(target)
	p.awaitLogs("eviction blocked") // the drain has started and waits for this PDB
	p.AWS.Backdate(target.ID, 10*time.Minute)
	heartbeats := len(p.AWS.Heartbeats(target.ID))
	r := p.sweepBy(p.functions[1])
	require.Equal(t, 1, r.Draining)
	require.Zero(t, r.Heartbeats)
	require.Zero(t, r.EventsResent)
	require.Len(t, p.AWS.Heartbeats(target.ID), heartbeats)
	p.removePDB("slow")
	require.Equal(t, termination.StatusDrained, end().Status)
}

// An instance that waits on another hook, such as that of EKS, is not ours to keep alive.
func TestSweep_InstanceWaitsOnOtherHook_Skipped(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0)
	target := p.instances[0]
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook}, awstest.Hook{Name: "Terminate-LC-Hook"})
	require.Equal(t, termination.StatusDrained, p.drain(target).Status)
	require.Equal(t, "Terminating:Wait", p.AWS.State(target.ID))
	p.AWS.Backdate(target.ID, 10*time.Minute)
	heartbeats := len(p.AWS.Heartbeats(target.ID))
	r := p.sweep()
	require.Equal(t, 1, r.Waiting)
	require.Zero(t, r.Heartbeats)
	require.Zero(t, r.EventsResent)
	require.Empty(t, r.Errors)
	require.Len(t, p.AWS.Heartbeats(target.ID), heartbeats)
}

// An instance of a warm pool returns to service without an event. Its node would stay cordoned: capacity that is paid for and not
// used.
func TestSweep_NodeBackInService_Uncordoned(t *testing.T) {
	s := newFixture(t, 2)
	s.AWS.AddWarmPool(s.group)
	clean, held := s.instances[0], s.instances[1]
	s.patchNode(held, `{"spec":{"unschedulable":true}}`)
	for _, i := range s.instances {
		require.Equal(t, termination.StatusDrained, s.invoke(s.eventOf(s.AWS.ReturnToWarmPool(i.ID))).Status)
	}
	s.sweepBy(s.newFunctionFor("another-" + s.group)) // what it does not know is not gone
	for _, i := range s.instances {
		s.AWS.SetState(i.ID, "InService")
	}
	require.Zero(t, s.sweep().Restored, "descriptions can lag: it may be in the middle of its drain")
	for _, i := range s.instances {
		s.backdateClosing(i, time.Hour)
	}
	require.Equal(t, 2, s.sweep().Restored)
	require.False(t, s.node(clean).Spec.Unschedulable)
	require.NotContains(t, s.node(clean).Labels, excludeLabel)
	require.True(t, s.node(held).Spec.Unschedulable, "an admin had closed it")
	for _, i := range s.instances {
		require.NotContains(t, s.node(i).Annotations, terminationKey)
		free, err := s.isLeaseReleased(i)
		require.NoError(t, err)
		require.True(t, free)
	}
}

// backdateClosing makes what the Lease remembers of the closing of the instance's node older by d.
func (s *fixture) backdateClosing(i env.Instance, d time.Duration) {
	s.Helper()
	leases := s.Lab.Client().CoordinationV1().Leases("quiesce")
	lease, err := leases.Get(s.ctx, i.ID, metav1.GetOptions{})
	require.NoError(s, err)
	for key, text := range lease.Annotations {
		if before, after, found := strings.Cut(text, `"cordoned":"`); found {
			_, rest, _ := strings.Cut(after, `"`)
			lease.Annotations[key] = before + `"cordoned":"` + time.Now().Add(-d).UTC().Format(time.RFC3339) + `"` + rest
		}
	}
	_, err = leases.Update(s.ctx, lease, metav1.UpdateOptions{})
	require.NoError(s, err)
}

const (
	manyGroups = 500 // the default quota of an account
	manyWait   = 200
	groupsWait = 50 // groups that have waiting instances
)

// A sweep runs every minute, and Auto Scaling limits the requests of the whole account, deployments included.
func TestSweep_FiveHundredGroups_FewCalls(t *testing.T) {
	s := newFixture(t, 0)
	queue := s.Queue(s.group)
	configuration := "mode: drain\nautoScalingGroups:\n"
	for n := range manyGroups {
		name := fmt.Sprintf("%s-%d", s.group, n)
		configuration += "  - " + name + "\n"
		s.AWS.AddGroup(name, awstest.Hook{Name: env.Hook})
	}
	for n := range manyWait {
		i := s.instanceWithoutNode(fmt.Sprintf("%s-%d", s.group, n%groupsWait), "nowhere")
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
	first := s.callCounts()
	delete(first, "ec2:DescribeInstances") // for Leases that other tests leave
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
	require.Empty(t, withoutLeases(writes(s.requests(s.function))))
	require.Contains(t, verbsOn(s.requests(s.function), "leases"), "list", "they say which nodes are closed")
	require.NotContains(t, verbsOn(s.requests(s.function), "nodes"), "list")

	r = s.sweep()
	require.Equal(t, manyWait, r.Messages)
	require.Zero(t, r.EventsResent)
	again := s.callCounts()
	for action, n := range first {
		again[action] -= n
	}
	require.Equal(t, groupsWait, again["autoscaling:DescribeScalingActivities"], "how long they wait")
	require.Zero(t, again["sqs:SendMessage"])
}

// callCounts counts the AWS calls of the fixture's function.
func (s *fixture) callCounts() map[string]int {
	calls := map[string]int{}
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		calls[call.Service+":"+call.Action]++
	}
	delete(calls, "sts:GetCallerIdentity") // the cluster sends it, to authenticate the caller
	return calls
}
