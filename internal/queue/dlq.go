package queue

import (
	"context"
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"quiesce/internal/termination"
)

// The attributes of a message in the dead-letter queue. Its body is that of the original message.
const (
	attributeReason    = "reason"       // what is wrong with it, and where
	attributeMessageID = "messageId"    // ID of the original message, as in the log
	attributeReceives  = "receiveCount" // number of deliveries so far
)

// DeadLetterQueue is the queue for malformed messages.
type DeadLetterQueue struct {
	client *sqs.Client
	url    string
}

var _ termination.DeadLetterQueue = (*DeadLetterQueue)(nil)

// NewDeadLetterQueue creates the client. It sends no request.
func NewDeadLetterQueue(config aws.Config, url string) *DeadLetterQueue {
	return &DeadLetterQueue{client: sqs.NewFromConfig(config), url: url}
}

// SendToDLQ implements termination.DeadLetterQueue.
func (d *DeadLetterQueue) SendToDLQ(ctx context.Context, record termination.Record) error {
	attributes := map[string]types.MessageAttributeValue{
		attributeReason:    text("String", record.Malformed.Error()),
		attributeMessageID: text("String", record.MessageID),
		attributeReceives:  text("Number", strconv.Itoa(record.Receives)),
	}
	_, err := d.client.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &d.url, MessageBody: &record.Body, MessageAttributes: attributes,
	})
	if err != nil {
		return fmt.Errorf("send message %s to the dead-letter queue: %w", record.MessageID, err)
	}
	return nil
}

func text(kind, value string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String(kind), StringValue: &value}
}
