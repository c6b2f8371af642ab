package drain

import (
	"errors"
	"time"
)

const (
	// firstAtOnce is how many evictions a drain has in flight at first. A hundred drains that start together then have two hundred, about as
	// many as an API server queues. A drain that is alone has all it may after three answers.
	firstAtOnce = 2
	// promptAnswer is how long an eviction takes at most on a server that has room. A longer one may be due to a webhook, or to other drains.
	promptAnswer = time.Second
)

// pace limits how many evictions a drain has in flight. It starts low and doubles with each round of prompt answers, up to the drain's
// concurrency. After a slow answer it grows by one for each round, and when the server throttles, it is halved and then grows by one. Without
// it, a hundred drains that start together would keep the server busy with refusals, and delay its other clients.
type pace struct {
	limit, now int
	careful    bool      // the server has throttled: no more doubling
	accepted   int       // requests since it last changed
	halvedAt   time.Time // the last time
	restUntil  time.Time // no request that can wait before
}

func newPace(limit int) pace { return pace{limit: limit, now: min(limit, firstAtOnce)} }

// throttled slows down if the error of an eviction says that the server is overloaded. retryAt is when that eviction is repeated.
// An eviction sent before the pace was last halved is no new information.
func (p *pace) throttled(err error, sentAt, retryAt time.Time) {
	if _, throttled := errors.AsType[*Throttled](err); throttled && sentAt.After(p.halvedAt) {
		p.now, p.accepted, p.halvedAt, p.restUntil, p.careful = max(1, p.now/2), 0, time.Now(), retryAt, true
	}
}

// accept counts a request that the server accepted, and that took this long.
func (p *pace) accept(took time.Duration) {
	if !p.careful && took <= promptAnswer {
		p.now = min(p.limit, p.now+1)
		return
	}
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
