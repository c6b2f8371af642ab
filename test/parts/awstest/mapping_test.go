package awstest_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// invoked records the batches that a mapped function gets, and returns the given answers.
type invoked struct {
	mu      sync.Mutex
	batches []events.SQSEvent
	answers []string // one per invocation; afterwards: nothing failed
}

func (f *invoked) take(_ context.Context, payload []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var batch events.SQSEvent
	if err := json.Unmarshal(payload, &batch); err != nil {
		return nil, err
	}
	f.batches = append(f.batches, batch)
	if len(f.answers) == 0 {
		return []byte(`{"batchItemFailures":[]}`), nil
	}
	answer := f.answers[0]
	f.answers = f.answers[1:]
	if answer == "" {
		return nil, errors.New("crashed")
	}
	return []byte(answer), nil
}

func (f *invoked) all() []events.SQSEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]events.SQSEvent{}, f.batches...)
}

func TestMapping_BatchDone_MessagesDeleted(t *testing.T) {
	s, f := start(t), &invoked{}
	url := s.AddQueue(awstest.Queue{Name: "events"})
	for _, body := range []string{"a", "b", "c"} {
		s.SendMessage(url, body)
	}
	t.Cleanup(s.Map(url, awstest.Mapping{BatchSize: 2, Invoke: f.take}))
	require.Eventually(t, func() bool { return len(s.Messages(url)) == 0 }, waitTimeout, pollInterval)
	batches := f.all()
	require.Len(t, batches, 2)
	require.Len(t, batches[0].Records, 2)
	first := batches[0].Records[0]
	require.Equal(t, "a", first.Body)
	require.Equal(t, "aws:sqs", first.EventSource)
	require.Equal(t, "1", first.Attributes["ApproximateReceiveCount"])
	require.NotEmpty(t, first.ReceiptHandle)
	require.NotEmpty(t, first.MessageId)
}

func TestMapping_BatchFailed_DeliveredAgain(t *testing.T) {
	s := start(t)
	url := s.AddQueue(awstest.Queue{Name: "events", Visibility: 50 * time.Millisecond})
	id := s.SendMessage(url, "a")
	f := &invoked{answers: []string{
		`{"batchItemFailures":[{"itemIdentifier":"` + id + `"}]}`,
		``, // a crash
		`no such answer`,
		`{"batchItemFailures":[{"itemIdentifier":"unknown"}]}`,
	}}
	t.Cleanup(s.Map(url, awstest.Mapping{Invoke: f.take}))
	require.Eventually(t, func() bool { return len(s.Messages(url)) == 0 }, waitTimeout, pollInterval)
	batches := f.all()
	require.Len(t, batches, 5)
	require.Equal(t, "5", batches[4].Records[0].Attributes["ApproximateReceiveCount"])
	require.Equal(t, batches[0].Records[0].Attributes["ApproximateFirstReceiveTimestamp"],
		batches[4].Records[0].Attributes["ApproximateFirstReceiveTimestamp"])
}

func TestMapping_Concurrency_Limited(t *testing.T) {
	s := start(t)
	url := s.AddQueue(awstest.Queue{Name: "events"})
	for range 30 {
		s.SendMessage(url, "x")
	}
	var running, most int
	var mutex sync.Mutex
	full := make(chan struct{}) // closed when the maximum runs
	t.Cleanup(s.Map(url, awstest.Mapping{Concurrency: 3, Invoke: func(ctx context.Context, _ []byte) ([]byte, error) {
		mutex.Lock()
		running++
		most = max(most, running)
		now := running
		mutex.Unlock()
		defer func() { mutex.Lock(); running--; mutex.Unlock() }()
		if now == 3 && len(s.Messages(url)) == 30 {
			close(full)
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
		return []byte(`{}`), nil
	}}))
	require.Eventually(t, func() bool { return len(s.Messages(url)) == 0 }, waitTimeout, pollInterval)
	mutex.Lock()
	defer mutex.Unlock()
	require.Equal(t, 3, most)
}

func TestMapping_Stopped_InvocationsEnd(t *testing.T) {
	s := start(t)
	url := s.AddQueue(awstest.Queue{Name: "events"})
	s.SendMessage(url, "x")
	begun, ended := make(chan struct{}), make(chan struct{})
	stop := s.Map(url, awstest.Mapping{Invoke: func(ctx context.Context, _ []byte) ([]byte, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	<-begun
	stop()
	<-ended
	require.Len(t, s.Messages(url), 1)
}
