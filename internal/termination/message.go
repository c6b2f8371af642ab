package termination

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

const (
	// hiddenTime is how long a message stays hidden after its invocation last hid it: another invocation follows a crash within a
	// minute. Less would not outlast a few failed requests.
	hiddenTime = 60 * time.Second
	// hidePace lets two requests in a row fail.
	hidePace = 20 * time.Second
	// hideTimeout bounds one request. The first has to connect. The last shares handOffReserve: if it fails, the message comes back in
	// a minute and not in a second.
	hideTimeout = 2 * time.Second
)

// When a message that is retried becomes visible.
const (
	// handOffDelay lets the invocation that hands off answer first. The instance's Lease is free by then.
	handOffDelay = time.Second
	// heldDelay is for an instance that another invocation drains. If that one crashes, its own message is back within a minute, so
	// this message only has to stay in the queue. The delay grows with each delivery because a drain can take hours, and the queue
	// moves a message to the dead-letter queue after 1,000 deliveries. With this delay those outlast any hook.
	heldDelay     = 15 * time.Second
	heldDelayStep = time.Second
	maxHeldDelay  = 5 * time.Minute
	// spotDelay replaces heldDelay for a Spot interruption. Each delivery shortens the deadline of the holder, and one of a hundred
	// seconds must not be lost because an invocation ended in between.
	spotDelay = 5 * time.Second
	// failedDelay doubles with each delivery up to maxFailedDelay. That is less than the shortest heartbeat timeout of a hook: each try
	// keeps the instance alive for the next.
	failedDelay    = time.Second
	maxFailedDelay = 20 * time.Second
	maxDoublings   = 5 // reaches maxFailedDelay
)

// message is an SQS message whose record is being handled. Meanwhile it is hidden for a short time only, again and again. If the
// invocation crashes or is killed, the message becomes visible by itself.
type message struct {
	queue  Queue
	record Record
	log    *slog.Logger
	cancel context.CancelFunc // ends the requests
	ended  sync.WaitGroup     // a request that is under way
}

// keepHidden hides the record's message while ctx lasts, until stop. It does not hide the message of a record that is not ours, but
// that message can be returned to the queue all the same. It returns nil if there is no message.
func (h *Handler) keepHidden(ctx context.Context, record Record) *message {
	if h.Queue == nil || record.ReceiptHandle == "" {
		return nil
	}
	m := &message{queue: h.Queue, record: record, log: h.Log.With("messageId", record.MessageID), cancel: func() {}}
	if t := record.Termination; t != nil && h.Policy.notOurs(*t) == "" {
		ctx, m.cancel = context.WithCancel(ctx)
		m.ended.Go(func() {
			for m.hide(ctx, hiddenTime); drain.Sleep(ctx, hidePace) == nil; {
				m.hide(ctx, hiddenTime)
			}
		})
	}
	return m
}

// hide sets when the message becomes visible. The end of ctx does not cut it short: a request whose answer is not awaited may take
// effect after the next request.
func (m *message) hide(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hideTimeout)
	defer cancel()
	if err := m.queue.Hide(ctx, m.record.ReceiptHandle, d); err != nil {
		m.log.Warn("failed to change message visibility", "error", err.Error())
	}
}

// returnToQueue makes a message that is retried visible in time. Any other message stays hidden until its batch is answered.
func (m *message) returnToQueue(ctx context.Context, o outcome) {
	if m == nil || !o.isRetried() {
		return
	}
	m.stop()
	m.hide(ctx, o.retryDelay(m.record.Receives))
}

// stop ends the hiding, and waits for a request that is under way.
func (m *message) stop() {
	if m != nil {
		m.cancel()
		m.ended.Wait()
	}
}

// isRetried reports whether the record is to be delivered again. A record whose instance another invocation drains is retried in case
// that one does not finish.
func (o outcome) isRetried() bool { return o.err != nil || o.report.held }

// retryDelay returns after how long a record that was delivered so many times is to be delivered again.
func (o outcome) retryDelay(receives int) time.Duration {
	switch {
	case isHandedOff(o.err):
		return handOffDelay
	case o.err == nil && o.report.Trigger == SpotInterruption:
		return spotDelay
	case o.err == nil:
		return min(heldDelay+time.Duration(max(receives, 0))*heldDelayStep, maxHeldDelay)
	}
	doublings := min(max(receives, 0), maxDoublings)
	delay := min(failedDelay<<doublings, maxFailedDelay)
	return delay - drain.Jitter(o.report.InstanceID, delay/5) // events that failed together do not come back together
}
