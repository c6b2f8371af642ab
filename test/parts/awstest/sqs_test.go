package awstest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// mail is a client of SQS for tests.
type mail struct {
	*testing.T
	client *sqs.Client
	url    string
}

func mailOf(t *testing.T, s *awstest.Server, q awstest.Queue) mail {
	return mail{t, sqs.NewFromConfig(config(s)), s.AddQueue(q)}
}

func (m mail) receive(n int32) []types.Message {
	m.Helper()
	out, err := m.client.ReceiveMessage(m.Context(), &sqs.ReceiveMessageInput{QueueUrl: &m.url, MaxNumberOfMessages: n})
	require.NoError(m, err)
	return out.Messages
}

func (m mail) hide(handle *string, seconds int32) error {
	_, err := m.client.ChangeMessageVisibility(m.Context(), &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &m.url, ReceiptHandle: handle, VisibilityTimeout: seconds,
	})
	return err
}

func (m mail) counts() map[string]string {
	m.Helper()
	out, err := m.client.GetQueueAttributes(m.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &m.url, AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		},
	})
	require.NoError(m, err)
	return out.Attributes
}

func TestMessage_ReceivedThenDeleted_HiddenThenGone(t *testing.T) {
	s := start(t)
	m := mailOf(t, s, awstest.Queue{Name: "events"})
	_, err := m.client.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: &m.url, MessageBody: aws.String("hello"), MessageAttributes: map[string]types.MessageAttributeValue{
			"reason": {DataType: aws.String("String"), StringValue: aws.String("because")},
		},
	})
	require.NoError(t, err, "the SDK checks the digest of the body")
	require.Equal(t, map[string]string{"reason": "because"}, s.Messages(m.url)[0].Attributes)
	require.Equal(t, "1", m.counts()["ApproximateNumberOfMessages"])

	got := m.receive(10)
	require.Len(t, got, 1)
	require.Equal(t, "hello", *got[0].Body)
	require.Equal(t, "1", got[0].Attributes["ApproximateReceiveCount"])
	require.Equal(t, "1", m.counts()["ApproximateNumberOfMessagesNotVisible"])
	require.Empty(t, m.receive(10), "it is hidden")
	_, err = m.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &m.url, ReceiptHandle: got[0].ReceiptHandle})
	require.NoError(t, err)
	require.Empty(t, s.Messages(m.url))
}

func TestMessage_MadeVisible_OldReceiptInvalid(t *testing.T) {
	s := start(t)
	m := mailOf(t, s, awstest.Queue{Name: "events"})
	s.SendMessage(m.url, "hello")
	first := m.receive(1)[0].ReceiptHandle
	require.NoError(t, m.hide(first, 0))
	again := m.receive(1)
	require.Len(t, again, 1)
	require.Equal(t, "2", again[0].Attributes["ApproximateReceiveCount"])
	requireCode(t, m.hide(first, 60), "ReceiptHandleIsInvalid")
	require.NoError(t, m.hide(again[0].ReceiptHandle, 0))
	requireCode(t, m.hide(again[0].ReceiptHandle, 60), "MessageNotInflight")
	_, err := m.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &m.url, ReceiptHandle: first})
	require.NoError(t, err)
	require.Len(t, s.Messages(m.url), 1)
}

func TestMessage_ReceivedTooOften_MovedToDLQ(t *testing.T) {
	s := start(t)
	dead := mailOf(t, s, awstest.Queue{Name: "dead"})
	m := mailOf(t, s, awstest.Queue{Name: "events", MaxReceives: 2, DeadLetters: dead.url})
	s.SendMessage(m.url, "hello")
	for range 2 {
		require.NoError(t, m.hide(m.receive(1)[0].ReceiptHandle, 0))
	}
	require.Empty(t, m.receive(1))
	require.Empty(t, s.Messages(m.url))
	require.Equal(t, "hello", s.Messages(dead.url)[0].Body)
}

func TestQueue_UnsupportedRequest_Refused(t *testing.T) {
	s := start(t)
	m := mailOf(t, s, awstest.Queue{Name: "events"})
	send := func(in sqs.SendMessageInput) error {
		if in.QueueUrl == nil {
			in.QueueUrl = &m.url
		}
		_, err := m.client.SendMessage(t.Context(), &in)
		return err
	}
	requireCode(t, send(sqs.SendMessageInput{MessageBody: aws.String("x"), QueueUrl: aws.String(m.url + "x")}), "QueueDoesNotExist")
	requireCode(t, send(sqs.SendMessageInput{MessageBody: aws.String("")}), "MissingParameter")
	requireCode(t, send(sqs.SendMessageInput{MessageBody: aws.String("x"), MessageAttributes: map[string]types.MessageAttributeValue{
		"reason": {DataType: aws.String("String"), StringValue: aws.String("")},
	}}), "InvalidParameterValue")
	requireCode(t, send(sqs.SendMessageInput{MessageBody: aws.String("x"), DelaySeconds: 901}), "InvalidParameterValue")
	requireCode(t, send(sqs.SendMessageInput{MessageBody: aws.String(strings.Repeat("x", 1<<20+1))}), "InvalidParameterValue")
	s.SendMessage(m.url, "hello")
	handle := m.receive(1)[0].ReceiptHandle
	requireCode(t, m.hide(handle, 43201), "InvalidParameterValue")
	requireCode(t, m.hide(aws.String("x"), 1), "ReceiptHandleIsInvalid")
	calls := s.Calls()
	require.Equal(t, "sqs ChangeMessageVisibility", calls[len(calls)-1].Service+" "+calls[len(calls)-1].Action)
}

func TestQueue_WrongSecret_Refused(t *testing.T) {
	s := start(t)
	sess := s.Session("fn")
	sess.SecretAccessKey += "x"
	_, err := sqs.NewFromConfig(configOf(s, sess)).SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: aws.String(s.AddQueue(awstest.Queue{Name: "events"})), MessageBody: aws.String("x"),
	})
	requireCode(t, err, "SignatureDoesNotMatch")
}

func TestQueue_NoTimeoutGiven_DefaultVisibility(t *testing.T) {
	s := start(t)
	m := mailOf(t, s, awstest.Queue{Name: "events", Visibility: time.Hour})
	s.SendMessage(m.url, strings.Repeat("x", 1000))
	m.receive(1)
	require.WithinDuration(t, time.Now().Add(time.Hour), s.Messages(m.url)[0].Visible, waitTimeout)
}
