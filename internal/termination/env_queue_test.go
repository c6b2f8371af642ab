package termination

import (
	"context"
	"fmt"
	"time"
)

// fakeQueue is a queue and its dead-letter queue in memory.
type fakeQueue struct {
	*testEnv
	latency           time.Duration // of each Hide
	waiting, inFlight int
	hides             []hide
	sent              []string
	deadLetters       []Record
}

// hide is one change of a message's visibility.
type hide struct {
	at      time.Time
	message string // its receipt handle
	d       time.Duration
}

// Hide takes effect even if its caller does not await the answer.
func (m *fakeQueue) Hide(ctx context.Context, receiptHandle string, d time.Duration) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(m.latency)
		if d != hiddenTime {
			_ = m.do(fmt.Sprintf("return %s", receiptHandle))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hides = append(m.hides, hide{time.Now(), receiptHandle, d})
	}()
	select {
	case <-done:
		return m.nextError("hide")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hidesOf returns the changes of one message's visibility.
func (m *fakeQueue) hidesOf(receiptHandle string) (hides []hide) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.hides {
		if h.message == receiptHandle {
			hides = append(hides, h)
		}
	}
	return hides
}

func (m *fakeQueue) Send(_ context.Context, body string) error {
	if err := m.nextError("send"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent = append(m.sent, body)
	return nil
}

func (m *fakeQueue) Backlog(context.Context) (int, int, error) {
	return m.waiting, m.inFlight, m.nextError("backlog")
}

func (m *fakeQueue) SendToDLQ(_ context.Context, record Record) error {
	if err := m.nextError("dlq"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deadLetters = append(m.deadLetters, record)
	return nil
}
