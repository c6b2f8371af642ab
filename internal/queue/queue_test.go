package queue

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

// queues is an account with both queues, and their adapters.
type queues struct {
	*testing.T
	*awstest.Server
	url, dlqURL string
	queue       *Queue
	dlq         *DeadLetterQueue
}

func setup(t *testing.T) queues {
	t.Helper()
	server, config := awstest.Serve(t)
	q := queues{T: t, Server: server}
	q.dlqURL = server.AddQueue(awstest.Queue{Name: "dlq"})
	q.url = server.AddQueue(awstest.Queue{Name: "events", Visibility: time.Hour, MaxReceives: 1000, DeadLetters: q.dlqURL})
	q.queue, q.dlq = New(config, q.url), NewDeadLetterQueue(config, q.dlqURL)
	return q
}

// deliver delivers the one message in the queue, and returns its receipt handle.
func (q queues) deliver() string {
	q.Helper()
	payloads := make(chan []byte, 1)
	stop := q.Map(q.url, awstest.Mapping{Invoke: capture(payloads)})
	defer stop()
	_, after, found := strings.Cut(string(<-payloads), `"receiptHandle":"`)
	require.True(q, found)
	handle, _, _ := strings.Cut(after, `"`)
	return handle
}

// capture keeps the payload and fails, so that the message stays in flight for its visibility timeout.
func capture(payloads chan<- []byte) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, payload []byte) ([]byte, error) {
		payloads <- payload
		return nil, errors.New("crashed")
	}
}

func (q queues) visible() time.Time {
	q.Helper()
	messages := q.Messages(q.url)
	require.Len(q, messages, 1)
	return messages[0].Visible
}

func TestHide_Duration_StartsNow(t *testing.T) {
	q := setup(t)
	q.SendMessage(q.url, "event")
	handle := q.deliver()
	for _, d := range []time.Duration{time.Minute, 15 * time.Second, time.Second} {
		before := time.Now()
		require.NoError(t, q.queue.Hide(t.Context(), handle, d))
		require.WithinRange(t, q.visible(), before.Add(d), time.Now().Add(d))
	}
}

// SQS counts whole seconds. A part of one must not become zero: the message would return before its answer.
func TestHide_PartOfASecond_RoundedUp(t *testing.T) {
	q := setup(t)
	q.SendMessage(q.url, "event")
	handle := q.deliver()
	before := time.Now()
	require.NoError(t, q.queue.Hide(t.Context(), handle, 1100*time.Millisecond))
	require.False(t, q.visible().Before(before.Add(2*time.Second)))
}

func TestHide_ExpiredReceipt_IsAnError(t *testing.T) {
	q := setup(t)
	require.ErrorContains(t, q.queue.Hide(t.Context(), "old", time.Minute), "change the visibility of a message")
}

func TestSend_Message_IsVisible(t *testing.T) {
	q := setup(t)
	require.NoError(t, q.queue.Send(t.Context(), `{"Service":"quiesce"}`))
	messages := q.Messages(q.url)
	require.Len(t, messages, 1)
	require.JSONEq(t, `{"Service":"quiesce"}`, messages[0].Body)
	require.False(t, messages[0].Visible.After(time.Now()))
}

// Lost events are sent again only while nothing waits. A reminder is no event.
func TestSendLater_Message_IsDelayedAndDoesNotCount(t *testing.T) {
	q, before := setup(t), time.Now()
	require.NoError(t, q.queue.SendLater(t.Context(), `{"action":"resume"}`, 59500*time.Millisecond))
	messages := q.Messages(q.url)
	require.Len(t, messages, 1)
	require.Equal(t, `{"action":"resume"}`, messages[0].Body)
	require.False(t, messages[0].Visible.Before(before.Add(time.Minute)))
	waiting, inFlight, err := q.queue.Backlog(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{0, 0}, []int{waiting, inFlight})
	require.ErrorContains(t, q.queue.SendLater(t.Context(), "x", time.Hour), "send a message that is delivered later")
}

func TestBacklog_WaitingAndInFlight_AreCounted(t *testing.T) {
	q := setup(t)
	q.SendMessage(q.url, "in flight")
	q.deliver()
	q.SendMessage(q.url, "waits")
	q.SendMessage(q.url, "waits")
	waiting, inFlight, err := q.queue.Backlog(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, waiting)
	require.Equal(t, 1, inFlight)
}

func TestSendToDLQ_Malformed_KeepsBodyAndAddsReason(t *testing.T) {
	q := setup(t)
	record := termination.Record{
		MessageID: "059f36b4-87a3-44ab-83d2-661975830a7d", Receives: 3, Body: `{"detail-type":`,
		Malformed: errors.New("Records[1].body: not JSON"),
	}
	require.NoError(t, q.dlq.SendToDLQ(t.Context(), record))
	messages := q.Messages(q.dlqURL)
	require.Len(t, messages, 1)
	require.Equal(t, `{"detail-type":`, messages[0].Body)
	require.Equal(t, map[string]string{
		"reason": "Records[1].body: not JSON", "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d", "receiveCount": "3",
	}, messages[0].Attributes)
}

// A message of the length limit could not be sent with its attributes, and came again for days.
func TestSendToDLQ_LongMessage_IsCutNotLost(t *testing.T) {
	for name, maxMessage := range map[string]int{"default": 1 << 20, "older queue": 256 << 10} {
		server, config := awstest.Serve(t)
		url := server.AddQueue(awstest.Queue{Name: "dlq", MaxMessage: maxMessage})
		record := termination.Record{
			MessageID: strings.Repeat("m", 100_000), Body: strings.Repeat("é", 1<<20), Malformed: errors.New(strings.Repeat("x", 900_000)),
		}
		require.NoError(t, NewDeadLetterQueue(config, url).SendToDLQ(t.Context(), record), name)
		messages := server.Messages(url)
		require.Len(t, messages, 1)
		require.Greater(t, len(messages[0].Body), maxMessage-8*1024)
		require.True(t, strings.HasPrefix(record.Body, messages[0].Body))
		require.Len(t, messages[0].Attributes["reason"], 1024)
		require.Contains(t, messages[0].Attributes["reason"], "(cut, 2097152 bytes) xxx")
		require.Len(t, messages[0].Attributes["messageId"], 1024)
	}
}

func TestSendToDLQ_CharactersThatSQSRefuses_AreReplaced(t *testing.T) {
	q := setup(t)
	record := termination.Record{MessageID: "m-1", Body: "a\x00b\tc", Malformed: errors.New("d\x1be")}
	require.NoError(t, q.dlq.SendToDLQ(t.Context(), record))
	message := q.Messages(q.dlqURL)[0]
	require.Equal(t, "a\uFFFDb\tc", message.Body)
	require.Equal(t, "d\uFFFDe", message.Attributes["reason"])
}

func TestQueue_AccessDenied_ErrorNamesOperation(t *testing.T) {
	q := setup(t)
	t.Cleanup(q.Fail("sqs", "", awstest.Fault{
		Code: http.StatusForbidden, ErrorCode: "com.amazonaws.sqs#AccessDeniedException", Message: "no",
	}))
	require.ErrorContains(t, q.queue.Hide(t.Context(), "x", time.Second), "change the visibility of a message")
	require.ErrorContains(t, q.queue.Send(t.Context(), "x"), "send a message")
	_, _, err := q.queue.Backlog(t.Context())
	require.ErrorContains(t, err, "count the messages")
	record := termination.Record{MessageID: "m-1", Body: "x", Malformed: errors.New("y")}
	require.ErrorContains(t, q.dlq.SendToDLQ(t.Context(), record), "send message m-1 to the dead-letter queue")
	require.Empty(t, q.Messages(q.url))
}
