package env

import (
	"context"
	"fmt"
	"time"

	"quiesce/test/parts/awstest"
)

const (
	// visibility is what the queue has of its own: Lambda takes none that is shorter than the function's timeout.
	visibility = 15 * time.Minute
	// maxReceives is after how many deliveries the queue gives a message up.
	maxReceives = 1000
)

// Queue is a queue for events, and its dead letters.
type Queue struct{ URL, DLQ string }

// Queue makes the two.
func (e *Env) Queue(name string) Queue { return e.QueueFor(name, visibility) }

// QueueFor makes the two for functions whose invocations take no longer than that.
func (e *Env) QueueFor(name string, timeout time.Duration) Queue {
	dead := e.AWS.AddQueue(awstest.Queue{Name: name + "-dead"})
	return Queue{DLQ: dead, URL: e.AWS.AddQueue(awstest.Queue{
		Name: name, Visibility: timeout, MaxReceives: maxReceives, DeadLetters: dead,
	})}
}

// Environment tells a function of the queue.
func (q Queue) Environment() []string {
	return []string{"QUIESCE_QUEUE_URL=" + q.URL, "QUIESCE_DLQ_URL=" + q.DLQ}
}

// Map has the queue's messages delivered to these functions, in batches of up to that many, until stop is called. They are one
// function with as many execution environments, of which each takes one invocation at a time.
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
