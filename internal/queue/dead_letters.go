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

// The attributes that a dead letter has beside its body, which is as it came.
const (
	attributeReason    = "reason"       // what is wrong with it, and where
	attributeMessageID = "messageId"    // what the log calls it
	attributeReceives  = "receiveCount" // how often it was delivered
)

// DeadLetterQueue is the queue for what can never be processed.
type DeadLetterQueue struct {
	client *sqs.Client
	url    string
}

var _ termination.DeadLetterQueue = (*DeadLetterQueue)(nil)

// NewDeadLetterQueue makes the client. It sends nothing.
func NewDeadLetterQueue(config aws.Config, url string) *DeadLetterQueue {
	return &DeadLetterQueue{client: sqs.NewFromConfig(config), url: url}
}

// Send implements termination.DeadLetters.
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
		return fmt.Errorf("move message %s to the dead letters: %w", record.MessageID, err)
	}
	return nil
}

func text(kind, value string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String(kind), StringValue: &value}
}
