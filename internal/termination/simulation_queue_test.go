package termination

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// simMessage is a message in the queue.
type simMessage struct {
	id, body  string
	receives  int
	first     time.Time
	visibleAt time.Time
}

func (s *simulation) send(body string) {
	if s.over {
		return
	}
	s.sent++
	s.messages = append(s.messages, &simMessage{id: fmt.Sprintf("m-%d", s.sent), body: body, visibleAt: time.Now()})
	s.poke()
}

func (s *simulation) poke() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// receive takes one batch of visible messages. If there is none, it returns when there will be.
func (s *simulation) receive() (batch []*simMessage, next time.Duration) {
	next = time.Hour
	for _, msg := range s.messages {
		if wait := time.Until(msg.visibleAt); wait > 0 {
			next = min(next, wait)
		} else if len(batch) < s.batch {
			msg.receives++
			msg.visibleAt = time.Now().Add(s.invocationTime + hiddenTime)
			if msg.first.IsZero() {
				msg.first = time.Now()
				s.noteReceipt(msg)
			}
			if msg.receives > maxReceives {
				s.violate("%s was delivered too often", msg.id)
			}
			batch = append(batch, msg)
		}
	}
	return batch, next
}

// noteReceipt notes that an event of an instance was received first.
func (s *simulation) noteReceipt(msg *simMessage) {
	var t Termination
	if json.Unmarshal([]byte(msg.body), &t) != nil {
		return
	}
	if inst := s.instance(t.InstanceID); inst != nil {
		inst.receipts = append(inst.receipts, msg.first)
	}
}

func (s *simulation) acknowledge(batch []*simMessage, failures []failedItem) {
	for _, msg := range batch {
		if !slices.Contains(failures, failedItem{msg.id}) {
			s.messages = slices.DeleteFunc(s.messages, func(other *simMessage) bool { return other == msg })
		}
	}
}

// deliver invokes the function for messages, as Lambda's event source mapping does.
func (s *simulation) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		batch, next := s.receive()
		s.mu.Unlock()
		if len(batch) > 0 {
			s.running.Go(func() { s.invoke(ctx, batch) })
			continue
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.arrived:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (msg *simMessage) record() Record {
	record := Record{MessageID: msg.id, ReceiptHandle: msg.id, Receives: msg.receives, FirstReceived: msg.first, Body: msg.body}
	if strings.HasPrefix(msg.body, "malformed") {
		record.Malformed = errors.New(msg.body)
		return record
	}
	t := Termination{}
	if err := json.Unmarshal([]byte(msg.body), &t); err != nil {
		record.Malformed = err
		return record
	}
	record.Termination = &t
	return record
}

// simQueue implements Queue and DeadLetterQueue for one invocation.
type simQueue struct{ *simInvocation }

func (m simQueue) Hide(ctx context.Context, handle string, d time.Duration) error {
	return m.effect(ctx, aws, "hide", handle, func() error {
		if i := slices.IndexFunc(m.s.messages, func(msg *simMessage) bool { return msg.id == handle }); i >= 0 {
			m.s.messages[i].visibleAt = time.Now().Add(d)
			m.s.poke()
		}
		return nil
	})
}

func (m simQueue) Send(ctx context.Context, body string) error {
	return m.effect(ctx, aws, "send", body, func() error { m.s.send(body); return nil })
}

func (m simQueue) Backlog(ctx context.Context) (waiting, underWay int, err error) {
	err = m.ask(ctx, aws, func() error {
		for _, msg := range m.s.messages {
			if time.Now().Before(msg.visibleAt) {
				underWay++
			} else {
				waiting++
			}
		}
		return nil
	})
	return waiting, underWay, err
}

func (m simQueue) SendToDLQ(ctx context.Context, record Record) error {
	return m.effect(ctx, aws, "to DLQ", record.MessageID, func() error {
		m.s.deadLettered[record.Body] = true
		if record.Malformed == nil {
			m.s.violate("%s is an event, and was sent to the DLQ", record.MessageID)
		}
		return nil
	})
}
