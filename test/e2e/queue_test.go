package e2e

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const (
	// crashWait is the longest that a message of a crashed slice may stay hidden.
	crashWait = time.Minute
	// lambdaTimeout is the longest that an invocation may have.
	lambdaTimeout = 15 * time.Minute
)

// post is a scene whose functions are behind a queue.
type post struct {
	*scene
	queue     env.Queue
	functions []*env.Function
}

// setPost makes a scene with nodes, a queue, and functions behind it whose invocations may take that long (0: 15 minutes).
func setPost(t *testing.T, nodes, functions int, timeout time.Duration, more ...string) *post {
	t.Helper()
	return setPostOn(t, play(t), nodes, functions, env.Settings{Configuration: strings.Join(more, "\n"), Timeout: timeout})
}

// setPostOn makes it on a stage, its functions with these settings and what they need to know of the scene.
func setPostOn(t *testing.T, on *env.Env, nodes, functions int, settings env.Settings) *post {
	t.Helper()
	s := setSceneOn(t, on, nodes)
	p := &post{scene: s, queue: s.QueueFor(s.group, cmp.Or(settings.Timeout, lambdaTimeout))}
	settings.Configuration = "autoScalingGroups: [\"" + s.group + "\"]\nmode: drain\n" + settings.Configuration
	settings.Environment = append(slices.Clone(settings.Environment), p.queue.Environment()...)
	for range functions {
		f, err := s.FunctionWith(t.Context(), settings)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, f.Close())
			if t.Failed() {
				t.Logf("the log of %s:\n%s", f.Session.Name, f.Output())
			}
		})
		p.functions = append(p.functions, f)
	}
	s.function = p.functions[0]
	return p
}

// deliver begins to deliver what is in the queue.
func (p *post) deliver(batch int) {
	p.Helper()
	p.Cleanup(p.Map(p.queue, batch, p.functions...))
}

// send puts events into the queue, as EventBridge does.
func (p *post) send(events ...[]byte) {
	p.Helper()
	for _, event := range events {
		p.AWS.SendMessage(p.queue.URL, string(event))
	}
}

func (p *post) messages() []awstest.Message { return p.AWS.Messages(p.queue.URL) }

// handled waits until the queue is empty.
func (p *post) handled() {
	p.Helper()
	p.until("every message is done with", func() (bool, error) { return len(p.messages()) == 0, nil })
}

// line is one line of a function's log.
type line struct {
	Time     time.Time
	Msg      string
	Message  string
	Receives int
	Reason   string
	Report   termination.Report
}

// said are the lines that the functions have logged with this message, in the order of the functions.
func (p *post) said(what string) (all []line) {
	p.Helper()
	for _, f := range p.functions {
		for text := range strings.Lines(f.Output()) {
			var l line
			if json.Unmarshal([]byte(text), &l) == nil && l.Msg == what {
				all = append(all, l)
			}
		}
	}
	return all
}

// calls are those of one action that the functions made.
func (p *post) calls(action string) (all []awstest.Call) {
	for _, f := range p.functions {
		for _, call := range p.AWS.CallsOf(f.Session) {
			if call.Action == action {
				all = append(all, call)
			}
		}
	}
	return all
}

func TestAnEventThroughTheQueueIsDrainedAndItsMessageGone(t *testing.T) {
	p := setPost(t, 1, 1, 0)
	victim := p.instances[0]
	p.podOn(victim, "pod", stopsAfter("100ms"))
	p.send(p.terminate(victim).Body)
	p.deliver(1)
	p.handled()
	p.completedOnce(victim)
	require.Empty(t, p.podsOn(victim))
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
	hides := p.calls("ChangeMessageVisibility")
	require.NotEmpty(t, hides)
	for _, call := range hides {
		require.Equal(t, http.StatusOK, call.Code)
		require.Equal(t, "60", call.Params.Get("VisibilityTimeout"))
	}
	require.Equal(t, 1, p.said("done")[0].Receives)
}

// A function that is killed says nothing. Its message must come again while the pods that it evicted are still stopping, not
// when the function's timeout would have been over.
func TestAKilledFunctionIsFollowedByAnotherWithinAMinute(t *testing.T) {
	p := setPost(t, 2, 1, 0)
	victim := p.instances[0]
	p.podOn(victim, "first", stopsAfter("20s"))
	p.podOn(victim, "second", stopsAfter("20s"))
	p.send(p.terminate(victim).Body)
	p.deliver(1)
	p.until("both are evicted", func() (bool, error) { return len(answered(p.evictions(""), http.StatusCreated)) == 2, nil })
	p.function.Kill()
	left := p.messages()
	require.Len(t, left, 1)
	require.WithinRange(t, left[0].Visible, time.Now(), time.Now().Add(crashWait))

	p.handled()
	p.completedOnce(victim)
	require.Empty(t, p.podsOn(victim))
	require.False(t, p.AWS.Expired(victim.ID))
	for _, pod := range []string{"first", "second"} {
		require.Len(t, p.evictions(pod), 1, "nobody is signalled twice")
	}
	done := p.said("done")
	require.Len(t, done, 1)
	require.Equal(t, 2, done[0].Receives)
	require.Equal(t, termination.StatusDrained, done[0].Report.Status)
	p.until("the lease is free", func() (bool, error) { return p.leaseFree(victim) })
}

// A drain that outlives its invocation, many times over: each slice goes on where the one before it ended.
func TestALongDrainGoesOnInSlicesOfTwentySeconds(t *testing.T) {
	p := setPost(t, 1, 2, 20*time.Second)
	victim := p.instances[0]
	p.podOn(victim, "slow", stopsAfter("50s"), func(pod *corev1.Pod) { pod.Spec.TerminationGracePeriodSeconds = new(int64(120)) })
	p.send(p.terminate(victim).Body)
	p.deliver(1)
	p.handled()
	p.completedOnce(victim)
	require.Empty(t, p.podsOn(victim))
	require.False(t, p.AWS.Expired(victim.ID))
	require.Len(t, p.evictions("slow"), 1)
	for _, f := range p.functions {
		require.NotContains(t, f.Output(), "Task timed out")
	}

	handed := p.said("handed over")
	require.GreaterOrEqual(t, len(handed), 3)
	slices.SortFunc(handed, func(a, b line) int { return a.Time.Compare(b.Time) })
	for n, l := range handed {
		require.Equal(t, termination.StatusIncomplete, l.Report.Status)
		require.Equal(t, handed[0].Report.Deadline, l.Report.Deadline, "it is one drain with one clock")
		require.Equal(t, n+1, l.Receives)
		t.Logf("slice %d ended %v before its invocation would have", l.Receives, 20*time.Second-l.Report.FinishedAt.Sub(l.Report.StartedAt))
	}
	given := slices.DeleteFunc(p.calls("ChangeMessageVisibility"), func(c awstest.Call) bool {
		return c.Params.Get("VisibilityTimeout") == "60"
	})
	require.Len(t, given, len(handed))
	for _, call := range given {
		require.Equal(t, "1", call.Params.Get("VisibilityTimeout"))
	}
	p.logPauses(handed)

	told := p.told(victim)
	require.Len(t, told, 2, "of the drain, not of its slices")
	require.Contains(t, told[1], "Normal Drained drained in ")
	require.EqualValues(t, len(handed), p.measured("Handoffs"))
	require.EqualValues(t, 1, p.measured("Drains", "Status", "drained"))
	require.EqualValues(t, 1, p.measured("PodsEvicted"))
	require.Zero(t, p.measured("HooksExpired"))
}

// logPauses tells how long nobody was at it between two slices.
func (p *post) logPauses(handed []line) {
	done := p.said("done")
	ends := append(slices.Clone(handed), done...)
	for n := 1; n < len(ends); n++ {
		p.Logf("pause before slice %d: %v", ends[n].Receives, ends[n].Report.StartedAt.Sub(ends[n-1].Time).Round(time.Millisecond))
	}
}

// EventBridge delivers at least once. The second message must neither begin a second drain nor fail, and be gone in the end.
func TestADuplicateMessageWaitsForTheOwnerAndIsThenDoneWith(t *testing.T) {
	p := setPost(t, 1, 2, 0)
	victim := p.instances[0]
	p.deploy("slow", 1)
	pod := p.podsOn(victim)[0].Name
	p.budget("slow", "slow", 0)
	event := p.terminate(victim).Body
	p.send(event, event)
	p.deliver(1)
	p.until("the second message finds the instance owned", func() (bool, error) {
		return strings.Contains(p.functions[0].Output()+p.functions[1].Output(), "another invocation is draining"), nil
	})
	p.removeBudget("slow")
	p.handled()
	p.completedOnce(victim)
	accepted := acceptedEvictions(append(p.requests(p.functions[0]), p.requests(p.functions[1])...))
	require.Equal(t, map[string]int{pod: 1}, accepted)
	owned := slices.DeleteFunc(p.said("done"), func(l line) bool { return l.Report.Status != termination.StatusSkipped })
	require.NotEmpty(t, owned)
	require.Contains(t, owned[0].Report.Reason, "another invocation is draining")
}

// One poisoned message must not keep its neighbours' nodes from being drained, nor bring those back again and again; nor
// must it be lost.
func TestPoisonInABatchGoesToTheDeadLettersAndTheRestIsDrained(t *testing.T) {
	p := setPost(t, 2, 1, 0)
	for n, victim := range p.instances {
		p.podOn(victim, fmt.Sprint("pod-", n), stopsAfter("100ms"))
	}
	bad := sample(t, "malformed-no-instance-id", func(object) {})
	p.send(p.terminate(p.instances[0]).Body, bad, p.terminate(p.instances[1]).Body)
	p.deliver(3)
	p.handled()
	for _, victim := range p.instances {
		p.completedOnce(victim)
	}
	letters := p.AWS.Messages(p.queue.DLQ)
	require.Len(t, letters, 1)
	require.Equal(t, string(bad), letters[0].Body)
	require.Equal(t, "Records[1].body: detail.EC2InstanceId: missing", letters[0].Attributes["reason"])
	moved := p.said("moved to the dead letters")
	require.Len(t, moved, 1)
	require.Equal(t, letters[0].Attributes["messageId"], moved[0].Message)
	require.Equal(t, letters[0].Attributes["reason"], moved[0].Reason)
	require.EqualValues(t, 1, p.measured("MalformedEvents"))
}

func TestPoisonThatCannotBeMovedIsKeptUntilItCan(t *testing.T) {
	p := setPost(t, 0, 1, 0)
	p.AWS.Fail("sqs", "SendMessage", awstest.Fault{
		Times: 1, Session: p.function.Session.Name,
		Code: http.StatusBadRequest, ErrorCode: "com.amazonaws.sqs#AccessDeniedException", Message: "not authorized",
	})
	p.send([]byte("{"))
	p.deliver(1)
	p.handled()
	require.Len(t, p.AWS.Messages(p.queue.DLQ), 1)
	require.Len(t, p.said("not done"), 1)
	require.EqualValues(t, 1, p.measured("MalformedEvents"), "one event, though it came twice")
	require.Contains(t, p.function.Output(), "not authorized")
}

// Where Auto Scaling throttles the account, it is at the worst of times: many instances go at once.
func TestACompletionThatIsThrottledIsRepeated(t *testing.T) {
	p := setPost(t, 1, 1, 0)
	victim := p.instances[0]
	p.podOn(victim, "pod", stopsAfter("100ms"))
	p.AWS.Fail("autoscaling", "CompleteLifecycleAction", awstest.Fault{
		Times: 4, Session: p.function.Session.Name, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	p.send(p.terminate(victim).Body)
	p.deliver(1)
	p.handled()
	p.completedOnce(victim)
	require.Equal(t, 1, p.said("done")[0].Receives)
}

// A retained instance that is terminated again fires its hook anew. Were the first event taken at its word, its clock would leave
// the pods no time, and its token would complete nothing.
func TestAnEventOfAnEarlierActionIsHeldAgainstThePresentOne(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	stale := changed(t, s.terminate(victim).Body, func(event object) {
		event["time"] = time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	})
	s.AWS.SetState(victim.ID, "Terminating:Retained")
	s.podOn(victim, "pod", stopsAfter("2s"))
	fresh := s.terminate(victim)

	r := s.invoke(stale)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Greater(t, time.Until(r.Deadline), 20*time.Minute, "the clock is that of the present action")
	s.completedOnce(victim)
	require.Equal(t, fresh.Token, s.AWS.Completions(victim.ID)[0].Token)
	require.Equal(t, termination.StatusRejected, s.invoke(fresh.Body).Status, "and its own event comes too late")
}

// Where a group retains what is abandoned, a drain that could not be done keeps the machine for somebody to look at. When that is
// done, it is terminated again, and drained as if for the first time.
func TestAnInstanceThatIsRetainedIsDrainedWhenItIsTerminatedAgain(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	s.AWS.RetainAbandoned(s.group)
	s.podOn(victim, "pod", stopsAfter("100ms"))
	lost := s.start("autoScalingGroups: ["+s.group+"]\nmode: drain\nlifecycle: {onFailure: ABANDON}\ndrain: {maxDuration: 2s, completionReserve: 0s}",
		"QUIESCE_CLUSTER_ENDPOINT=https://127.0.0.1:1", "QUIESCE_CLUSTER_CA="+base64.StdEncoding.EncodeToString(s.Lab.CA()))
	first := s.terminate(victim)
	s.until("the instance is retained", func() (bool, error) {
		s.sendTo(lost, first.Body) // which fails while there is time, so that it comes again
		return s.AWS.State(victim.ID) == "Terminating:Retained", nil
	})
	require.Len(t, s.podsOn(victim), 1)
	require.Equal(t, awstest.Abandon, s.AWS.Completions(victim.ID)[0].Result)

	second := s.terminate(victim)
	require.NotEqual(t, first.Token, second.Token)
	require.Equal(t, termination.StatusDrained, s.invoke(second.Body).Status)
	require.Empty(t, s.podsOn(victim))
	completions := s.AWS.Completions(victim.ID)
	require.Len(t, completions, 2)
	require.Equal(t, second.Token, completions[1].Token)
	require.Equal(t, awstest.Continue, completions[1].Result)
}

// Managed node groups have a hook of EKS' own. While it holds the instance, an event that comes again is of an action that has
// ended, and of an instance that waits.
func TestADuplicateEndsWellWhileAnotherHookHoldsTheInstance(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	s.AWS.AddGroup(s.group, awstest.Hook{Name: env.Hook}, awstest.Hook{Name: "Terminate-LC-Hook"})
	event := s.terminate(victim).Body
	require.Equal(t, termination.StatusDrained, s.invoke(event).Status)
	require.Equal(t, "Terminating:Wait", s.AWS.State(victim.ID))

	again := changed(t, event, func(event object) { event["time"] = time.Now().Add(-90 * time.Second).UTC().Format(time.RFC3339) })
	r := s.invoke(again)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Contains(t, r.Reason, "waits on another hook")
	s.completedOnce(victim)
	require.Equal(t, "Terminating:Wait", s.AWS.State(victim.ID))
}

// EC2 takes a Spot instance back in two minutes, whatever any hook says.
func TestASpotInterruptionIsDrainedInTimeAndCompletesNothing(t *testing.T) {
	p := setPost(t, 0, 1, 0)
	victim := p.spot()
	p.podOn(victim, "pod", stopsAfter("1s"))
	began := time.Now()
	p.send(p.notice("spot-interruption", victim, began), p.notice("rebalance-recommendation", victim, began))
	p.deliver(1)
	p.handled()
	require.Empty(t, p.podsOn(victim))
	require.True(t, p.node(victim).Spec.Unschedulable)
	require.Equal(t, "InService", p.AWS.State(victim.ID))
	require.Empty(t, p.AWS.Completions(victim.ID))
	require.Empty(t, p.AWS.Heartbeats(victim.ID))
	done := p.said("done")
	require.Len(t, done, 2)
	require.Equal(t, termination.StatusDrained, done[0].Report.Status)
	require.Equal(t, termination.SpotInterruption, done[0].Report.Trigger)
	require.WithinDuration(t, began.Add(100*time.Second), done[0].Report.Deadline, time.Second)
	require.Equal(t, termination.StatusSkipped, done[1].Report.Status)
	require.Contains(t, done[1].Report.Reason, "onRebalanceRecommendation is off")
}

func TestARebalanceRecommendationIsDrainedIfAskedFor(t *testing.T) {
	p := setPost(t, 0, 1, 0, "drain: {onRebalanceRecommendation: true}")
	victim := p.spot()
	p.podOn(victim, "pod", stopsAfter("100ms"))
	p.send(p.notice("rebalance-recommendation", victim, time.Now()))
	p.deliver(1)
	p.handled()
	require.Empty(t, p.podsOn(victim))
	require.Equal(t, termination.StatusDrained, p.said("done")[0].Report.Status)
	require.Empty(t, p.AWS.Completions(victim.ID))
}

// A notice names no group, and can be sent by whoever may invoke the function: what Auto Scaling and EC2 do not confirm drains
// nothing.
func TestANoticeThatIsNotTrueDrainsNothing(t *testing.T) {
	s := setScene(t, 1)
	s.podOn(s.instances[0], "pod")
	now := time.Now()
	onDemand := s.invoke(s.notice("spot-interruption", s.instances[0], now))
	require.Equal(t, termination.StatusRejected, onDemand.Status)
	require.Contains(t, onDemand.Reason, "no Spot instance")

	late := s.invoke(s.notice("spot-interruption", s.spot(), now.Add(-5*time.Minute)))
	require.Equal(t, termination.StatusRejected, late.Status)
	require.Contains(t, late.Reason, "too late")

	foreign := s.group + "-other"
	s.AWS.AddGroup(foreign)
	neighbour := s.unjoined(foreign, "neighbour")
	require.Equal(t, termination.StatusSkipped, s.invoke(s.notice("spot-interruption", neighbour, now)).Status)
	require.Empty(t, s.requests(s.function), "and asks nothing of the cluster")
}

// spot is a Spot instance of the scene's group, with its node.
func (s *scene) spot() env.Instance {
	s.Helper()
	i, err := s.SpotInstance(s.ctx, s.group)
	require.NoError(s, err)
	return i
}

// notice is one of EC2's about the instance.
func (s *scene) notice(name string, i env.Instance, at time.Time) []byte {
	return sample(s.T, name, func(event object) {
		event["time"] = at.UTC().Format(time.RFC3339Nano)
		event["detail"].(object)["instance-id"] = i.ID
	})
}
