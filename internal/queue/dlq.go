package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

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

// The bounds of a message, in bytes. SQS counts its attributes too
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html).
const (
	// maxAttribute bounds each attribute. A reason says where the error is in its first line.
	maxAttribute = 1024
	// attributeReserve is for all attributes with their names and types.
	attributeReserve = 4 * 1024
	// longestBody is what a queue takes by default, and olderBody what queues took by default until 2025.
	longestBody = 1<<20 - attributeReserve
	olderBody   = 256<<10 - attributeReserve
)

// SendToDLQ implements termination.DeadLetterQueue. A message that is too long for the queue is cut rather than lost.
func (d *DeadLetterQueue) SendToDLQ(ctx context.Context, record termination.Record) error {
	err := d.send(ctx, record, longestBody)
	if isInvalid(err) {
		err = d.send(ctx, record, olderBody)
	}
	if err != nil {
		return fmt.Errorf("send message %.100s to the dead-letter queue: %w", record.MessageID, err)
	}
	return nil
}

func (d *DeadLetterQueue) send(ctx context.Context, record termination.Record, longest int) error {
	reason, body := cut(record.Malformed.Error(), maxAttribute), cut(record.Body, longest)
	if len(body) < len(record.Body) {
		reason = cut(fmt.Sprintf("(cut, %d bytes) %s", len(record.Body), reason), maxAttribute)
	}
	_, err := d.client.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &d.url, MessageBody: &body, MessageAttributes: map[string]types.MessageAttributeValue{
			attributeReason:    text("String", reason),
			attributeMessageID: text("String", cut(record.MessageID, maxAttribute)),
			attributeReceives:  text("Number", strconv.Itoa(record.Receives)),
		},
	})
	return err
}

// isInvalid reports whether SQS does not take a message as it is, because it is too long for the queue.
func isInvalid(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && strings.Contains(api.ErrorCode(), "InvalidParameterValue")
}

// cut returns at most so many bytes of a text. Characters that SQS refuses are replaced
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html).
func cut(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return '\uFFFD'
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

func text(kind, value string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String(kind), StringValue: &value}
}
