package env

import (
	"context"
	"fmt"
	"time"

	"quiesce/test/parts/awstest"
)

const (
	// visibility is the queue's default visibility timeout: Lambda rejects one that is shorter than the function's timeout.
	visibility = 15 * time.Minute
	// maxReceives is how often a message is delivered before it moves to the dead-letter queue.
	maxReceives = 1000
)

// Queue is a queue for events and its dead-letter queue.
type Queue struct{ URL, DLQ string }

// Queue makes a queue and its dead-letter queue.
func (e *Env) Queue(name string) Queue { return e.QueueFor(name, visibility) }

// QueueFor makes a queue for functions with this timeout, and its dead-letter queue.
func (e *Env) QueueFor(name string, timeout time.Duration) Queue {
	dead := e.AWS.AddQueue(awstest.Queue{Name: name + "-dead"})
	return Queue{DLQ: dead, URL: e.AWS.AddQueue(awstest.Queue{
		Name: name, Visibility: timeout, MaxReceives: maxReceives, DeadLetters: dead,
	})}
}

// Environment returns the environment variables that name the queues to a function.
func (q Queue) Environment() []string {
	return []string{"QUIESCE_QUEUE_URL=" + q.URL, "QUIESCE_DLQ_URL=" + q.DLQ}
}

// Map delivers the queue's messages to these functions, in batches of this size at most, until stop is called. The functions
// stand for execution environments of one function: each takes one invocation at a time.
func (e *Env) Map(q Queue, batch int, functions ...*Function) (stop func()) {
	idle := make(chan *Function, len(functions))
	for _, f := range functions {
		idle <- f
	}
	return e.AWS.Map(q.URL, awstest.Mapping{
		BatchSize: batch, Concurrency: len(functions),
		Invoke: func(ctx context.Context, payload []byte) ([]byte, error) {
			f := <-idle
			defer func() { idle <- f }()
			return f.deliver(ctx, payload)
		},
	})
}

func (f *Function) deliver(ctx context.Context, payload []byte) ([]byte, error) {
	result, err := f.Invoke(ctx, payload)
	switch {
	case err != nil:
		return nil, err
	case result.ErrorType != "":
		return nil, fmt.Errorf("%s: %s", result.ErrorType, result.ErrorMessage)
	}
	return result.Payload, nil
}
