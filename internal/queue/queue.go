// Package queue is the adapter for SQS. It hides and counts the messages of the event queue, sends the sweep's messages to it,
// and sends malformed messages to the dead-letter queue.
package queue

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"quiesce/internal/termination"
)

// Queue is the event queue. Lambda itself receives and deletes its messages.
type Queue struct {
	client *sqs.Client
	url    string
}

var _ termination.Queue = (*Queue)(nil)

// New creates the client. It sends no request.
func New(config aws.Config, url string) *Queue {
	return &Queue{client: sqs.NewFromConfig(config), url: url}
}

// Hide implements termination.Queue. SQS counts whole seconds, up to twelve hours
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html).
func (q *Queue) Hide(ctx context.Context, receiptHandle string, d time.Duration) error {
	_, err := q.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &q.url, ReceiptHandle: &receiptHandle, VisibilityTimeout: int32((d + time.Second - 1) / time.Second),
	})
	if err != nil {
		return fmt.Errorf("change the visibility of a message: %w", err)
	}
	return nil
}

// Send implements termination.Queue.
func (q *Queue) Send(ctx context.Context, body string) error {
	if _, err := q.client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &q.url, MessageBody: &body}); err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	return nil
}

// SendLater puts a message into the queue that is delivered after the delay, of fifteen minutes at most
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-timers.html).
func (q *Queue) SendLater(ctx context.Context, body string, delay time.Duration) error {
	seconds := int32((delay + time.Second - 1) / time.Second)
	_, err := q.client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &q.url, MessageBody: &body, DelaySeconds: seconds})
	if err != nil {
		return fmt.Errorf("send a message that is delivered later: %w", err)
	}
	return nil
}

// The counts of a queue's messages. They are approximate, and exact about a minute after the last change
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html).
const (
	visible   = types.QueueAttributeNameApproximateNumberOfMessages
	invisible = types.QueueAttributeNameApproximateNumberOfMessagesNotVisible
)

// Backlog implements termination.Queue. A delayed message does not count: it is our own reminder (SendLater), and no event.
func (q *Queue) Backlog(ctx context.Context) (waiting, inFlight int, err error) {
	output, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{visible, invisible},
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count the messages: %w", err)
	}
	counts := map[types.QueueAttributeName]int{}
	for _, name := range []types.QueueAttributeName{visible, invisible} {
		if counts[name], err = strconv.Atoi(output.Attributes[string(name)]); err != nil {
			return 0, 0, fmt.Errorf("count the messages: %s: %w", name, err)
		}
	}
	return counts[visible], counts[invisible], nil
}
