package termination

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// withQueue returns a handler whose events come through a queue.
func (env *testEnv) withQueue() (*Handler, *fakeQueue) {
	m, h := &fakeQueue{testEnv: env}, env.handler()
	h.Queue, h.DLQ = m, m
	return h, m
}

// messageOf returns the record of an event that began just now.
func messageOf(t Termination, id string) Record {
	t.Began = time.Now()
	return Record{MessageID: id, ReceiptHandle: id, Receives: 1, FirstReceived: time.Now(), Termination: &t}
}

// deliverBatch runs one invocation for these records, with Lambda's full fifteen minutes. It returns the messages that are to come again.
func deliverBatch(t *testing.T, h *Handler, records ...Record) (retried []string) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Source: SQS, Records: records} }
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel) // not before: the test must see what outlives the invocation
	answer, err := h.Invoke(ctx, nil)
	require.NoError(t, err)
	retried = []string{}
	for _, failed := range answer.(batchResponse).Failures {
		retried = append(retried, failed.ID)
	}
	return retried
}

// The visibility timeout decides how a crash is recovered. Too long, and a drain stands still for as long. Too short, and two invocations
// drain.
func TestMessage_DuringDrain_HiddenAgainAndAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.node.Add(web("slow"), 5*time.Minute)
		began := time.Now()
		require.Empty(t, deliverBatch(t, h, messageOf(event, "m-1")))
		hides := m.hidesOf("m-1")
		require.Equal(t, began, hides[0].at, "it may crash in its first second")
		for i, hide := range hides {
			require.Equal(t, time.Minute, hide.d)
			if i > 0 {
				require.Equal(t, 20*time.Second, hide.at.Sub(hides[i-1].at))
			}
		}
		time.Sleep(time.Hour)
		require.Len(t, m.hidesOf("m-1"), len(hides), "Lambda deletes the message")
	})
}

func TestHandOff_InvocationEnds_ReleasesLeaseThenMessage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.node.Add(web("slow"), 20*time.Minute)
		began := time.Now()
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1")))
		require.Equal(t, 15*time.Minute-handOffReserve, time.Since(began))
		require.Equal(t, time.Now(), env.heartbeats[len(env.heartbeats)-1].at)
		effects := env.effects()
		require.Equal(t, []string{"release", "return m-1"}, effects[len(effects)-2:])
		last := m.hidesOf("m-1")[len(m.hidesOf("m-1"))-1]
		require.LessOrEqual(t, last.d, time.Second, "the next invocation begins at once")
	})
}

// A drain of hours takes many invocations. Only the cluster and the message keep state between them.
func TestHandOff_LongDrain_InvocationsContinueIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		h.Policy.Bounds.MaxDuration = 3 * time.Hour
		env.hook.GlobalTimeout = 48 * time.Hour
		env.node.Add(web("slow"), 100*time.Minute)
		record, invocations := messageOf(event, "m-1"), 0
		for retried := []string{"m-1"}; len(retried) > 0; invocations++ {
			retried = deliverBatch(t, h, record)
			hides := m.hidesOf("m-1")
			time.Sleep(hides[len(hides)-1].d)
			record.Receives++
		}
		require.Equal(t, 7, invocations)
		require.Equal(t, []Result{Continue}, env.completed)
		for i := 1; i < len(env.heartbeats); i++ {
			require.LessOrEqual(t, env.heartbeats[i].at.Sub(env.heartbeats[i-1].at), env.hook.HeartbeatTimeout/2, "the hook never runs out")
		}
	})
}

func TestMessage_LeaseHeldElsewhere_ComesAgainLater(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.heldElsewhere = true
		h, m := env.withQueue()
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1")))
		hides := m.hidesOf("m-1")
		require.InDelta(t, 15, hides[len(hides)-1].d.Seconds(), 2)
		require.Equal(t, []string{"return m-1"}, env.effects())
	})
}

// maxReceiveCount is how often the queue delivers a message before it moves it to the dead-letter queue.
const maxReceiveCount = 1000

func TestRetryDelay_LeaseHeldElsewhere_OutlastsAnyHook(t *testing.T) {
	held, total := outcome{report: Report{held: true}}, time.Duration(0)
	for receives := range maxReceiveCount {
		total += held.retryDelay(receives)
	}
	require.Greater(t, total, 48*time.Hour)
}

// Each try keeps the instance alive for the next, so the delay must be less than any hook's timeout.
func TestRetryDelay_Failures_GrowButStayBelowHookTimeout(t *testing.T) {
	failed, last := outcome{err: &Failed{errors.New("no")}}, time.Duration(0)
	for _, receives := range []int{0, 1, 2, 3, 4, 5, 6, 63, 64, 1000} {
		wait := failed.retryDelay(receives)
		require.GreaterOrEqual(t, wait, last*4/5, receives)
		require.GreaterOrEqual(t, wait, 800*time.Millisecond, receives)
		require.LessOrEqual(t, wait, maxFailedDelay, receives)
		require.Less(t, maxFailedDelay, minHeartbeatTimeout)
		last = wait
	}
}

func TestMessage_DrainFails_ComesAgainInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.failAlways("find", errors.New("connection refused"))
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1")))
		hides := m.hidesOf("m-1")
		require.LessOrEqual(t, hides[len(hides)-1].d, 2*time.Second)
	})
}

// Lambda deletes a batch's messages when all of it is answered. A message that becomes visible before is drained twice.
func TestMessage_HandledEarly_HiddenUntilBatchIsAnswered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.node.Add(web("slow"), 3*time.Minute)
		early := Termination{Group: "workers-a", Hook: "quiesce", InstanceID: "i-0fed", Token: "t-9"} // no longer in the group
		require.Empty(t, deliverBatch(t, h, messageOf(event, "slow"), messageOf(early, "quick")))
		hides := m.hidesOf("quick")
		last := hides[len(hides)-1]
		require.True(t, last.at.Add(last.d).After(time.Now()))
		require.Greater(t, len(hides), 8)
	})
}

// Two requests in flight take effect in any order. If the hiding one comes last, the message is hidden for a minute.
func TestMessage_RequestInFlight_EndsBeforeReturn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.heldElsewhere = true // the job ends while the first request is in flight
		h, m := env.withQueue()
		m.latency = 700 * time.Millisecond
		require.Equal(t, []string{"m-1"}, deliverBatch(t, h, messageOf(event, "m-1")))
		hides := m.hidesOf("m-1")
		require.Len(t, hides, 2)
		require.Equal(t, hiddenTime, hides[0].d)
		require.Less(t, hides[1].d, hiddenTime)
	})
}

func TestMessage_QueueRefuses_DrainContinues(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.failAlways("hide", errors.New("AccessDenied"))
		env.node.Add(web("web"), time.Minute)
		require.Empty(t, deliverBatch(t, h, messageOf(event, "m-1")))
		require.Equal(t, []Result{Continue}, env.completed)
		require.Greater(t, len(m.hidesOf("m-1")), 1, "the request is repeated")
	})
}

func TestMessage_NotOurs_NotHidden(t *testing.T) {
	env := newTestEnv()
	h, m := env.withQueue()
	other := event
	other.Group = "theirs"
	require.Empty(t, deliverBatch(t, h, messageOf(other, "m-1"), Record{MessageID: "m-2", ReceiptHandle: "m-2", NotOurs: "a launch"}))
	require.Empty(t, m.hides)
}

func TestMessage_NoQueue_NothingHidden(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.heldElsewhere = true
		require.Equal(t, []string{"m-1"}, deliverBatch(t, env.handler(), messageOf(event, "m-1")))
		require.Empty(t, env.effects())
	})
}

var malformed = Record{MessageID: "bad", ReceiptHandle: "bad", Receives: 1, Body: "{", Malformed: errors.New("body: not JSON")}

// A malformed message that comes again and again delays its batch each time, and costs money while the queue keeps it.
func TestMalformed_InBatch_MovedToDLQAndOthersHandled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.node.Add(web("web"), time.Second)
		require.Empty(t, deliverBatch(t, h, malformed, messageOf(event, "good"), Record{MessageID: "launch", NotOurs: "a launch"}))
		require.Equal(t, []Record{malformed}, m.deadLetters)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestMalformed_DLQRefuses_ComesAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		env.failAlways("dlq", errors.New("AccessDenied"))
		require.Equal(t, []string{"bad"}, deliverBatch(t, h, malformed, messageOf(event, "good")))
		require.LessOrEqual(t, m.hidesOf("bad")[0].d, maxFailedDelay)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestMalformed_NoDLQ_Fails(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h := env.handler()
		require.Equal(t, []string{"bad"}, deliverBatch(t, h, messageOf(event, "good"), Record{MessageID: "launch", NotOurs: "a launch"}, malformed))
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestMalformed_FromSNS_MovedToDLQ(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, m := env.withQueue()
		record := malformed
		record.ReceiptHandle = ""
		h.Parse = func([]byte) Delivery {
			return Delivery{Source: SNS, Records: []Record{record, messageOf(event, "good")}}
		}
		answer, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err, "otherwise SNS would deliver the other event again")
		require.Len(t, m.deadLetters, 1)
		statuses := []Status{}
		for _, report := range answer.([]Report) {
			statuses = append(statuses, report.Status)
		}
		require.True(t, slices.Equal([]Status{StatusRejected, StatusDrained}, statuses), statuses)
	})
}

func TestMalformed_Direct_ReturnsMalformedError(t *testing.T) {
	env := newTestEnv()
	h, m := env.withQueue()
	report, err := deliver(t, h, Record{Malformed: errors.New("time: missing")})
	var malformed *Malformed
	require.ErrorAs(t, err, &malformed)
	require.Equal(t, StatusRejected, report.Status)
	require.Empty(t, m.deadLetters, "the sender gets the error")
}
