package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/jsii-runtime-go"
)

const (
	day = 24 * time.Hour
	// visibility is the visibility timeout of a message whose invocation died before its first action. It is as short as Lambda
	// allows: the timeout of the function. AWS recommends six times that, so that throttled invocations do not use up the receives
	// of a message. Here it has a thousand receives, a second delivery is harmless (a Lease), and an instance waits meanwhile. A
	// running invocation hides its message for a minute at a time.
	visibility = functionTimeout
	// maxReceives is how often a message is received before it goes to the dead-letter queue. Each invocation of a drain is one
	// receive, and 48 hours, the longest wait of any hook, are two hundred invocations.
	maxReceives = 1000
	// eventRetention is twice the longest lifecycle action: an older message is about an instance that is gone.
	eventRetention = 4 * day
	// dlqRetention is the maximum of SQS: people read these messages, and people take vacations. A moved message keeps its age.
	dlqRetention = 14 * day
)

// queues are the event queue and its dead-letter queue.
type queues struct{ events, dlq awssqs.Queue }

// newQueues creates queues that are encrypted with a key of SQS: EventBridge may send to them without a key policy.
func newQueues(stack awscdk.Stack, d deployment) queues {
	dlq := awssqs.NewQueue(stack, jsii.String("DeadLetterQueue"), &awssqs.QueueProps{
		QueueName:       jsii.String(d.StackName() + "-dlq"),
		Encryption:      awssqs.QueueEncryption_SQS_MANAGED,
		EnforceSSL:      jsii.Bool(true),
		RetentionPeriod: duration(dlqRetention),
	})
	events := awssqs.NewQueue(stack, jsii.String("Events"), &awssqs.QueueProps{
		QueueName:         jsii.String(d.StackName()),
		Encryption:        awssqs.QueueEncryption_SQS_MANAGED,
		EnforceSSL:        jsii.Bool(true),
		RetentionPeriod:   duration(eventRetention),
		VisibilityTimeout: duration(visibility),
		DeadLetterQueue:   &awssqs.DeadLetterQueue{Queue: dlq, MaxReceiveCount: jsii.Number(maxReceives)},
	})
	return queues{events: events, dlq: dlq}
}
