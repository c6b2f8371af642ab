package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

func TestQueue_Event_DrainedAndMessageDeleted(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0)
	target := p.instances[0]
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
	hides := p.calls("ChangeMessageVisibility")
	require.NotEmpty(t, hides)
	for _, call := range hides {
		require.Equal(t, http.StatusOK, call.Code)
		require.Equal(t, "60", call.Params.Get("VisibilityTimeout"))
	}
	require.Equal(t, 1, p.logLines("event handled")[0].Receives)
}

// A killed function sends nothing. Its message must be delivered again while the evicted pods still stop, not after the
// function's timeout.
func TestQueue_FunctionKilled_RetriedWithinOneMinute(t *testing.T) {
	p := newQueueFixture(t, 2, 1, 0)
	target := p.instances[0]
	p.runPodOn(target, "first", stopsAfter("20s"))
	p.runPodOn(target, "second", stopsAfter("20s"))
	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.until("both are evicted", func() (bool, error) { return len(answered(p.evictions(""), http.StatusCreated)) == 2, nil })
	p.function.Kill()
	messages := p.messages()
	require.Len(t, messages, 1)
	require.WithinRange(t, messages[0].Visible, time.Now(), time.Now().Add(maxCrashDelay))

	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
	require.False(t, p.AWS.Expired(target.ID))
	for _, pod := range []string{"first", "second"} {
		require.Len(t, p.evictions(pod), 1, "no pod is signaled twice")
	}
	done := p.logLines("event handled")
	require.Len(t, done, 1)
	require.Equal(t, 2, done[0].Receives)
	require.Equal(t, termination.StatusDrained, done[0].Report.Status)
	p.until("the lease is free", func() (bool, error) { return p.isLeaseReleased(target) })
}

// A drain outlives its invocation several times. Each invocation continues where the previous one ended.
func TestQueue_ShortInvocations_DrainHandedOff(t *testing.T) {
	p := newQueueFixture(t, 1, 2, 20*time.Second)
	target := p.instances[0]
	p.runPodOn(target, "slow", untilDeleted)
	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.until("the fourth invocation drains", func() (bool, error) { return len(p.logLines("node cordoned")) > 3, nil })
	p.createPod("late", pinned(target), stopsAfter("100ms")) // it may be evicted before it runs
	p.until("it sees the node's pods", func() (bool, error) { return acceptedEvictions(p.allRequests())["late"] == 1, nil })
	p.forceDelete("slow")
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Empty(t, p.podsOn(target))
	require.False(t, p.AWS.Expired(target.ID))
	require.Len(t, p.evictions("slow"), 1)
	for _, f := range p.functions {
		require.NotContains(t, f.Output(), "Task timed out")
	}

	handoffs := p.logLines(handedOff)
	require.GreaterOrEqual(t, len(handoffs), 3)
	slices.SortFunc(handoffs, func(a, b line) int { return a.Time.Compare(b.Time) })
	last := 0
	for _, l := range handoffs {
		require.Equal(t, termination.StatusIncomplete, l.Report.Status)
		require.Equal(t, handoffs[0].Report.Deadline, l.Report.Deadline, "it is one drain with one clock")
		require.Greater(t, l.Receives, last)
		last = l.Receives
		t.Logf("invocation %d ended %v before its timeout", l.Receives, 20*time.Second-l.Report.FinishedAt.Sub(l.Report.StartedAt))
	}
	handoffHides := slices.DeleteFunc(p.calls("ChangeMessageVisibility"), func(c awstest.Call) bool {
		return c.Params.Get("VisibilityTimeout") == "60"
	})
	require.Len(t, handoffHides, len(handoffs))
	for _, call := range handoffHides {
		require.Equal(t, "1", call.Params.Get("VisibilityTimeout"))
	}
	p.logHandoffGaps(handoffs)

	events := p.nodeEvents(target)
	require.Len(t, events, 2, "of the drain, not of each invocation")
	require.Contains(t, events[1], "Normal Drained drained in ")
	require.EqualValues(t, len(handoffs), p.metricSum("Handoffs"))
	require.EqualValues(t, 1, p.metricSum("Drains", "Status", "drained"))
	require.EqualValues(t, 2, p.metricSum("PodsEvicted"))
	require.Zero(t, p.metricSum("HooksExpired"))
}

// logHandoffGaps logs the time between two invocations of a drain.
func (p *queueFixture) logHandoffGaps(handoffs []line) {
	done := p.logLines("event handled")
	ends := append(slices.Clone(handoffs), done...)
	for n := 1; n < len(ends); n++ {
		p.Logf("pause before invocation %d: %v", ends[n].Receives, ends[n].Report.StartedAt.Sub(ends[n-1].Time).Round(time.Millisecond))
	}
}

// EventBridge delivers at least once. The second message must not start a second drain, must not fail, and must be deleted in the
// end.
func TestQueue_Duplicate_WaitsThenSkipped(t *testing.T) {
	p := newQueueFixture(t, 1, 2, 0)
	target := p.instances[0]
	p.deploy("slow", 1)
	pod := p.podsOn(target)[0].Name
	p.pdb("slow", "slow", 0)
	event := p.terminate(target).Body
	p.send(event, event)
	p.deliver(1)
	p.until("the second message finds the instance being drained", func() (bool, error) {
		return strings.Contains(p.functions[0].Output()+p.functions[1].Output(), "another invocation is draining"), nil
	})
	p.removePDB("slow")
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	accepted := acceptedEvictions(append(p.requests(p.functions[0]), p.requests(p.functions[1])...))
	require.Equal(t, map[string]int{pod: 1}, accepted)
	skipped := slices.DeleteFunc(p.logLines("event handled"), func(l line) bool { return l.Report.Status != termination.StatusSkipped })
	require.NotEmpty(t, skipped)
	require.Contains(t, skipped[0].Report.Reason, "another invocation is draining")
}

// One malformed message must not keep the nodes of the other messages from being drained, nor bring those messages back; and it
// must not be lost.
func TestQueue_MalformedInBatch_SentToDLQOthersDrained(t *testing.T) {
	p := newQueueFixture(t, 2, 1, 0)
	for n, target := range p.instances {
		p.runPodOn(target, fmt.Sprint("pod-", n), stopsAfter("100ms"))
	}
	bad := sample(t, "malformed-no-instance-id", func(object) {})
	p.send(p.terminate(p.instances[0]).Body, bad, p.terminate(p.instances[1]).Body)
	p.deliver(3)
	p.awaitEmptyQueue()
	for _, target := range p.instances {
		p.requireCompletedOnce(target)
	}
	deadLetters := p.AWS.Messages(p.queue.DLQ)
	require.Len(t, deadLetters, 1)
	require.Equal(t, string(bad), deadLetters[0].Body)
	require.Equal(t, "Records[1].body: detail.EC2InstanceId: missing", deadLetters[0].Attributes["reason"])
	moved := p.logLines("message moved to dead-letter queue")
	require.Len(t, moved, 1)
	require.Equal(t, deadLetters[0].Attributes["messageId"], moved[0].MessageID)
	require.Equal(t, deadLetters[0].Attributes["reason"], moved[0].Reason)
	require.EqualValues(t, 1, p.metricSum("MalformedEvents"))
}

func TestQueue_DLQUnavailable_MalformedMessageKept(t *testing.T) {
	p := newQueueFixture(t, 0, 1, 0)
	p.AWS.Fail("sqs", "SendMessage", awstest.Fault{
		Times: 1, Session: p.function.Session.Name,
		Code: http.StatusBadRequest, ErrorCode: "com.amazonaws.sqs#AccessDeniedException", Message: "not authorized",
	})
	p.send([]byte("{"))
	p.deliver(1)
	p.awaitEmptyQueue()
	require.Len(t, p.AWS.Messages(p.queue.DLQ), 1)
	require.Len(t, p.logLines(failedEvent), 1)
	require.EqualValues(t, 1, p.metricSum("MalformedEvents"), "one event, though it came twice")
	require.Contains(t, p.function.Output(), "not authorized")
}

// Auto Scaling throttles the account at the worst time: when many instances terminate at once.
func TestQueue_CompletionThrottled_Retried(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 0)
	target := p.instances[0]
	p.runPodOn(target, "pod", stopsAfter("100ms"))
	p.AWS.Fail("autoscaling", "CompleteLifecycleAction", awstest.Fault{
		Times: 4, Session: p.function.Session.Name, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	require.Equal(t, 1, p.logLines("event handled")[0].Receives)
}
