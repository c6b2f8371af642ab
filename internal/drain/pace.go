package drain

import (
	"errors"
	"time"
)

const (
	// firstAtOnce is how many evictions a drain has in flight at first. A hundred drains that start together then have two hundred, about as
	// many as an API server queues. A drain that is alone has sixteen after three rounds of answers.
	firstAtOnce = 2
	// promptAnswer is how long an eviction takes at most on a server that has room. A longer one may be due to a webhook, or to other drains.
	promptAnswer = time.Second
)

// pace limits how many evictions a drain has in flight. It starts low and doubles with each round of prompt answers, up to the drain's
// concurrency. After slow answers and failures it grows by one for each round. When the server throttles, it is halved, and then grows by
// one. Without it, a hundred drains that start together would keep the server busy with refusals, and delay its other clients.
type pace struct {
	limit, now int
	careful    bool      // the server has throttled: no more doubling
	slow       int       // answers that count for a round, since it last changed
	halvedAt   time.Time // the last time
	restUntil  time.Time // no request that can wait before
}

func newPace(limit int) pace { return pace{limit: limit, now: min(limit, firstAtOnce)} }

// throttled slows down if the error of an eviction says that the server is overloaded. retryAt is when that eviction is repeated.
// An eviction sent before the pace was last halved is no new information.
func (p *pace) throttled(err error, sentAt, retryAt time.Time) {
	if _, throttled := errors.AsType[*Throttled](err); throttled && sentAt.After(p.halvedAt) {
		p.now, p.slow, p.halvedAt, p.restUntil, p.careful = max(1, p.now/2), 0, time.Now(), retryAt, true
	}
}

// answered counts a response that is no throttling. A failure counts as a slow answer: a webhook without a server fails all its pods,
// and the others must not wait for them. What was not asked says nothing, and an escort's requests have had responses of their own.
func (p *pace) answered(got response) {
	if got.escort != nil {
		return
	}
	well := true
	if got.err != nil {
		block, blocked := errors.AsType[*Blocked](got.err)
		_, refused := errors.AsType[*Refused](got.err)
		_, throttled := errors.AsType[*Throttled](got.err)
		if throttled || blocked && block.Unasked {
			return
		}
		well = blocked || refused
	}
	if well && !p.careful && max(got.evictTook, got.deleteTook) <= promptAnswer {
		p.now = min(p.limit, p.now+1)
		return
	}
	if p.slow++; p.slow >= p.now {
		p.now, p.slow = min(p.limit, p.now+1), 0
	}
}

// room returns how many evictions may be in flight. A due pod is not delayed by throttling.
func (p *pace) room(due bool) int {
	if due {
		return p.limit
	}
	return p.now
}
