package termination

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

const (
	// hiddenTime is how long a message stays hidden after its invocation last said that it is at work: a crashed one is followed
	// by another within a minute. Less would not outlast a few lost renewals.
	hiddenTime = 60 * time.Second
	// hidePace: two renewals may be lost in a row.
	hidePace = 20 * time.Second
	// hideTimeout bounds one such request. It is long enough for the first, which has to connect, and short enough for the last,
	// which shares handOverReserve: one that is lost there means that the message comes in a minute and not in a second.
	hideTimeout = 2 * time.Second
)

// When a message that is not done with comes again.
const (
	// handOffDelay lets the invocation that hands over answer first. The instance's Lease is free by then.
	handOffDelay = time.Second
	// heldDelay is for an instance that another invocation drains: should that one crash, its own message is back within a
	// minute, so that this one only has to be there some time. It grows with each delivery, as it may be hours, and the queue
	// moves what it has delivered too often to the dead letters: 1,000 deliveries last longer than any hook.
	heldDelay     = 15 * time.Second
	heldDelayStep = time.Second
	maxHeldDelay = 5 * time.Minute
	// spotDelay is for a notice instead: who drains is told of it each time, and one of a hundred seconds must not be lost to a
	// slice that ended in between.
	spotDelay = 5 * time.Second
	// failedDelay doubles with each delivery up to failedWaitMost, which is less than the shortest heartbeat timeout that a hook can
	// have: each try keeps the instance alive for the next.
	failedDelay     = time.Second
	maxFailedDelay = 20 * time.Second
)

// message is an SQS message whose record is being handled. While that lasts it is kept hidden for a short time only, again and
// again: when the invocation crashes, or is killed, it comes back by itself.
type message struct {
	queue  Queue
	record Record
	log    *slog.Logger
	stopHiding   func() // ends the renewals, and waits for one that is under way
}

// keepHidden hides the record's message for as long as ctx lasts, if it has one and work is to be done for it; a message that is
// not held is as the queue has it, and can be given back all the same. It is nil where there is none.
func (h *Handler) keepHidden(ctx context.Context, record Record) *message {
	if h.Queue == nil || record.ReceiptHandle == "" {
		return nil
	}
	m := &message{queue: h.Queue, record: record, log: h.Log.With("message", record.MessageID), stopHiding: func() {}}
	if t := record.Termination; t != nil && h.Policy.notOurs(*t) == "" {
		holding, cancel := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() { m.hideUntil(holding) })
		m.stopHiding = func() { cancel(); ended.Wait() }
	}
	return m
}

func (m *message) hideUntil(ctx context.Context) {
	for {
		m.hide(ctx, hiddenTime)
		if pause(ctx, hidePace) != nil {
			return
		}
	}
}

// hide sets when the message comes again. It is not cut short by ctx: of a request whose answer was not awaited, nobody knows
// whether it takes effect after the next one.
func (m *message) hide(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hideTimeout)
	defer cancel()
	if err := m.queue.Hide(ctx, m.record.ReceiptHandle, d); err != nil {
		m.log.Warn("the message's visibility was not changed", "error", err.Error())
	}
}

// returnToQueue has a message that is not done with come again in time. One that is stays hidden until its batch is answered.
func (m *message) returnToQueue(ctx context.Context, o outcome) {
	if m == nil || !o.isRetried() {
		return
	}
	m.stopHiding()
	m.hide(ctx, o.retryDelay(m.record.Receives))
}

// release ends the renewals.
func (m *message) release() {
	if m != nil {
		m.stopHiding()
	}
}

// isRetried tells whether the record is to be delivered again. One that another invocation is busy with is, in case that one does
// not finish.
func (o outcome) isRetried() bool { return o.err != nil || o.report.held }

// retryDelay is when.
func (o outcome) retryDelay(receives int) time.Duration {
	_, incomplete := errors.AsType[*Incomplete](o.err)
	switch {
	case incomplete:
		return handOffDelay
	case o.err == nil && o.report.Trigger == SpotInterruption:
		return spotDelay
	case o.err == nil:
		return min(heldDelay+time.Duration(receives)*heldDelayStep, maxHeldDelay)
	}
	wait := maxFailedDelay
	if receives < 5 { // doublings
		wait = min(failedDelay<<receives, maxFailedDelay)
	}
	return wait - drain.Jitter(o.report.InstanceID, wait/5) // so that those that failed together do not come together
}
