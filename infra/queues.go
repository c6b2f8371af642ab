package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/jsii-runtime-go"
)

const (
	// visibility is for how long a message stays hidden that nobody shortens it for: one whose invocation died before its first act.
	// It is as short as Lambda allows, the function's own timeout. AWS advises six times that, lest throttled invocations use up a
	// message's receives. Here there are a thousand of those, a second delivery is harmless (a Lease), and an instance waits meanwhile.
	// A slice that runs hides its message for a minute at a time.
	visibility = functionTimeout
	// maxReceives is how often a message comes back before it counts as dead: each slice of a drain is one receive, and 48 hours, the
	// longest that any hook can wait, are two hundred slices.
	maxReceives = 1000
	// keepMessages is twice what the longest lifecycle action can take: whatever is older is about an instance that is gone.
	keepMessages = 4 * day
	// keepDeadLetters is SQS's maximum: people look at them, and people take holidays. A message that is moved keeps its age.
	keepDeadLetters = 14 * day
)

// queues are what events wait in, and what those end in that cannot be processed.
type queues struct{ work, dead awssqs.Queue }

// newQueues makes them encrypted by SQS's own key: EventBridge may write to such a queue without being named in a key's policy.
func newQueues(stack awscdk.Stack, d deployment) queues {
	dead := awssqs.NewQueue(stack, jsii.String("DeadLetters"), &awssqs.QueueProps{
		QueueName:       jsii.String(d.StackName() + "-dead"),
		Encryption:      awssqs.QueueEncryption_SQS_MANAGED,
		EnforceSSL:      jsii.Bool(true),
		RetentionPeriod: lasting(keepDeadLetters),
	})
	work := awssqs.NewQueue(stack, jsii.String("Events"), &awssqs.QueueProps{
		QueueName:         jsii.String(d.StackName()),
		Encryption:        awssqs.QueueEncryption_SQS_MANAGED,
		EnforceSSL:        jsii.Bool(true),
		RetentionPeriod:   lasting(keepMessages),
		VisibilityTimeout: lasting(visibility),
		DeadLetterQueue:   &awssqs.DeadLetterQueue{Queue: dead, MaxReceiveCount: jsii.Number(maxReceives)},
	})
	return queues{work: work, dead: dead}
}
