package drain

import (
	"errors"
	"time"
)

// pace limits how many evictions a drain has in flight. It starts at the drain's concurrency, is halved each time the server
// throttles, and rises by one after each round of accepted requests. Without it, a hundred drains that start together would keep the
// server busy with refusals, and delay its other clients.
type pace struct {
	limit, now int
	accepted   int       // requests since it last changed
	halvedAt   time.Time // the last time
	restUntil  time.Time // no request that can wait before
}

// throttled slows down if the error of an eviction says that the server is overloaded. retryAt is when that eviction is repeated.
// An eviction sent before the pace was last halved is no new information.
func (p *pace) throttled(err error, sentAt, retryAt time.Time) {
	if _, throttled := errors.AsType[*Throttled](err); throttled && sentAt.After(p.halvedAt) {
		p.now, p.accepted, p.halvedAt, p.restUntil = max(1, p.now/2), 0, time.Now(), retryAt
	}
}

// accept counts a request that the server accepted.
func (p *pace) accept() {
	if p.accepted++; p.accepted >= p.now {
		p.now, p.accepted = min(p.limit, p.now+1), 0
	}
}

// room returns how many evictions may be in flight. A due pod is not delayed by throttling.
func (p *pace) room(due bool) int {
	if due {
		return p.limit
	}
	return p.now
}
