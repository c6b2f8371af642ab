package drain

import (
	"errors"
	"time"
)

// pace is how many evictions a drain has under way at once: up to its concurrency, half as many each time the server says that it
// has too much to do, and one more for each round that it accepts. A hundred drains that begin at once would else keep it
// busy with refusing them, and everybody else waiting.
type pace struct {
	most, now int
	rising    int       // evictions accepted since it last changed
	slowed    time.Time // when it was last halved
	resting   time.Time // until when the server is not asked for more
}

// heed takes the error of an eviction, and until when that one is not repeated. Of one that was asked before the pace was last
// halved it is no news.
func (p *pace) heed(err error, asked, again time.Time) {
	if _, throttled := errors.AsType[*Throttled](err); throttled && asked.After(p.slowed) {
		p.now, p.rising, p.slowed, p.resting = max(1, p.now/2), 0, time.Now(), again
	}
}

func (p *pace) accepted() {
	if p.rising++; p.rising >= p.now {
		p.now, p.rising = min(p.most, p.now+1), 0
	}
}

// room is how many may be under way. For a pod whose moment has come nothing is put off.
func (p *pace) room(due bool) int {
	if due {
		return p.most
	}
	return p.now
}
