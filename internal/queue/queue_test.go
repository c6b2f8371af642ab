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

// mail is an account with the two queues, and the edge to them.
type mail struct {
	*testing.T
	*awstest.Server
	url, deadURL string
	queue        *Queue
	dead         *DeadLetterQueue
}

func mailOf(t *testing.T) mail {
	t.Helper()
	server, config := awstest.Serve(t)
	m := mail{T: t, Server: server}
	m.deadURL = server.AddQueue(awstest.Queue{Name: "dead"})
	m.url = server.AddQueue(awstest.Queue{Name: "events", Visibility: time.Hour, MaxReceives: 1000, DeadLetters: m.deadURL})
	m.queue, m.dead = New(config, m.url), NewDeadLetterQueue(config, m.deadURL)
	return m
}

// delivered is the receipt handle of the one message that is in the queue, as an invocation gets it.
func (m mail) delivered() string {
	m.Helper()
	payloads := make(chan []byte, 1)
	stop := m.Map(m.url, awstest.Mapping{Invoke: capture(payloads)})
	defer stop()
	_, after, found := strings.Cut(string(<-payloads), `"receiptHandle":"`)
	require.True(m, found)
	handle, _, _ := strings.Cut(after, `"`)
	return handle
}

// capture keeps the payload, and fails, so that the message is under way for as long as its queue says.
func capture(payloads chan<- []byte) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, payload []byte) ([]byte, error) {
		payloads <- payload
		return nil, errors.New("crashed")
	}
}

func (m mail) visible() time.Time {
	m.Helper()
	messages := m.Messages(m.url)
	require.Len(m, messages, 1)
	return messages[0].Visible
}

func TestAMessageIsHiddenForAsLongAsIsSaidFromNow(t *testing.T) {
	m := mailOf(t)
	m.SendMessage(m.url, "event")
	handle := m.delivered()
	for _, d := range []time.Duration{time.Minute, 15 * time.Second, time.Second} {
		before := time.Now()
		require.NoError(t, m.queue.Hide(t.Context(), handle, d))
		require.WithinRange(t, m.visible(), before.Add(d), time.Now().Add(d))
	}
}

// A second is the least that SQS knows: what is less must not become none, or the message is there before its answer is.
func TestPartsOfASecondAreRoundedUp(t *testing.T) {
	m := mailOf(t)
	m.SendMessage(m.url, "event")
	handle := m.delivered()
	before := time.Now()
	require.NoError(t, m.queue.Hide(t.Context(), handle, 1100*time.Millisecond))
	require.False(t, m.visible().Before(before.Add(2*time.Second)))
}

func TestAReceiptThatIsNoLongerGoodIsAnError(t *testing.T) {
	m := mailOf(t)
	require.ErrorContains(t, m.queue.Hide(t.Context(), "old", time.Minute), "change the visibility of a message")
}

func TestWhatIsSentCanBeDelivered(t *testing.T) {
	m := mailOf(t)
	require.NoError(t, m.queue.Send(t.Context(), `{"Service":"quiesce"}`))
	messages := m.Messages(m.url)
	require.Len(t, messages, 1)
	require.JSONEq(t, `{"Service":"quiesce"}`, messages[0].Body)
	require.False(t, messages[0].Visible.After(time.Now()))
}

func TestMessagesAreCountedThatWaitAndThatAreUnderWay(t *testing.T) {
	m := mailOf(t)
	m.SendMessage(m.url, "under way")
	m.delivered()
	m.SendMessage(m.url, "waits")
	m.SendMessage(m.url, "waits")
	waiting, underWay, err := m.queue.Backlog(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, waiting)
	require.Equal(t, 1, underWay)
}

func TestADeadLetterSaysWhyItIsOneAndIsOtherwiseAsItCame(t *testing.T) {
	m := mailOf(t)
	record := termination.Record{
		MessageID: "059f36b4-87a3-44ab-83d2-661975830a7d", Receives: 3, Body: `{"detail-type":`,
		Malformed: errors.New("Records[1].body: not JSON"),
	}
	require.NoError(t, m.dead.SendToDLQ(t.Context(), record))
	letters := m.Messages(m.deadURL)
	require.Len(t, letters, 1)
	require.Equal(t, `{"detail-type":`, letters[0].Body)
	require.Equal(t, map[string]string{
		"reason": "Records[1].body: not JSON", "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d", "receiveCount": "3",
	}, letters[0].Attributes)
}

func TestARefusalNamesTheOperation(t *testing.T) {
	m := mailOf(t)
	t.Cleanup(m.Fail("sqs", "", awstest.Fault{
		Code: http.StatusForbidden, ErrorCode: "com.amazonaws.sqs#AccessDeniedException", Message: "no",
	}))
	require.ErrorContains(t, m.queue.Hide(t.Context(), "x", time.Second), "change the visibility of a message")
	require.ErrorContains(t, m.queue.Send(t.Context(), "x"), "send a message")
	_, _, err := m.queue.Backlog(t.Context())
	require.ErrorContains(t, err, "count the messages")
	record := termination.Record{MessageID: "m-1", Body: "x", Malformed: errors.New("y")}
	require.ErrorContains(t, m.dead.SendToDLQ(t.Context(), record), "move message m-1 to the dead letters")
	require.Empty(t, m.Messages(m.url))
}
