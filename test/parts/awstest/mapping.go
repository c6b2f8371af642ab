package awstest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// emptyWait is how long a poller waits after it found no message. Lambda's long polls return as soon as there is one.
const emptyWait = 20 * time.Millisecond

// Mapping is an event source mapping of Lambda: a queue whose messages invoke a function, which may report which of them failed
// (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
type Mapping struct {
	BatchSize   int // the most messages per invocation; default 1
	Concurrency int // the most invocations at once; default 1
	// Invoke invokes the function. An error is a function error or a crash: the whole batch has failed.
	Invoke func(ctx context.Context, payload []byte) (answer []byte, err error)
}

// Map delivers a queue's messages until stop is called, which also ends running invocations.
func (s *Server) Map(url string, m Mapping) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var pollers sync.WaitGroup
	for range max(1, m.Concurrency) {
		pollers.Go(func() { s.poll(ctx, url, m) })
	}
	return func() { cancel(); pollers.Wait() }
}

func (s *Server) poll(ctx context.Context, url string, m Mapping) {
	for ctx.Err() == nil {
		batch := s.receive(url, max(1, m.BatchSize))
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(emptyWait):
			}
			continue
		}
		answer, err := m.Invoke(ctx, payloadOf(batch))
		if err == nil {
			s.settle(url, batch, answer)
		}
	}
}

// record is a message in the form that the function gets.
type record struct {
	MessageID         string            `json:"messageId"`
	ReceiptHandle     string            `json:"receiptHandle"`
	Body              string            `json:"body"`
	Attributes        map[string]string `json:"attributes"`
	MessageAttributes struct{}          `json:"messageAttributes"`
	MD5OfBody         string            `json:"md5OfBody"`
	EventSource       string            `json:"eventSource"`
	EventSourceARN    string            `json:"eventSourceARN"`
	AWSRegion         string            `json:"awsRegion"`
}

func (s *Server) receive(url string, n int) (batch []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.account.mustQueue(url)
	for _, m := range s.account.receive(q, n) {
		batch = append(batch, record{
			MessageID: m.ID, ReceiptHandle: m.handle, Body: m.Body, Attributes: m.systemAttributes(), MD5OfBody: digest(m.Body),
			EventSource: "aws:sqs", EventSourceARN: "arn:aws:sqs:" + Region + ":" + Account + ":" + q.Name, AWSRegion: Region,
		})
	}
	return batch
}

func payloadOf(batch []record) []byte {
	payload, err := json.Marshal(map[string][]record{"Records": batch})
	must(err)
	return payload
}

// settle deletes the messages of a batch that have not failed. If the answer is malformed or names a message that is not in the
// batch, all have failed.
func (s *Server) settle(url string, batch []record, answer []byte) {
	var response struct {
		Failures []struct {
			ID string `json:"itemIdentifier"`
		} `json:"batchItemFailures"`
	}
	if json.Unmarshal(answer, &response) != nil {
		return
	}
	done := slices.Clone(batch)
	for _, failure := range response.Failures {
		before := len(done)
		if done = slices.DeleteFunc(done, func(r record) bool { return r.MessageID == failure.ID }); len(done) == before {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.account.mustQueue(url)
	for _, r := range done {
		if m := q.held(r.ReceiptHandle); m != nil {
			q.drop(m)
		}
	}
}
