package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"quiesce/internal/pgbouncer"
)

// Several clusters may have one pooler in front of them. Then two callbacks may see it without a mark, and both write theirs. pgbouncer has
// no command that looks and writes at once. So each looks again when its pauses are in force. The last mark counts, and the others give way.
// The last gives way as well if a pause that it did not see before stays: that one was complete before the last mark was written.

const (
	// settleTime is how long the last mark waits for others to give way, which takes them milliseconds. PostgreSQL's stop waits as long.
	settleTime = time.Second
	// settleInterval is between two looks meanwhile: a look costs pgbouncer two short answers.
	settleInterval = 25 * time.Millisecond
	// foreignTime is how long a watcher leaves its databases paused under another callback's mark. That callback ends its pause within
	// maxResumeAfter, unless it has died. A shorter time could end its pause early; with a longer one, clients of a dead one wait longer.
	foreignTime = maxResumeAfter + 30*time.Second
)

var (
	// errForeign is the error of a pause that another callback is in charge of.
	errForeign = errors.New("another callback has marked the pooler, and must resume it first")
	// errRival is the error of a pause that must end at once.
	errRival = errors.New("another callback has marked or paused it at the same moment")
)

// others is what a watcher knows about others that use its pooler.
type others struct {
	takesOver bool      // the pause was there before, and had a mark
	before    []string  // other databases that were paused before our mark
	retry     string    // the last mark of another callback; empty: there is none
	since     time.Time // when it was first seen
}

// note remembers that pgbouncer has read our PAUSE.
func (p *pooler) note(d pgbouncer.Database) {
	for _, sent := range p.pauses {
		sent.seen = sent.seen || d.Paused && sent.database == d.Name
	}
}

// unread reports whether pgbouncer may have a PAUSE of ours that it has not read.
func (p *pooler) unread() bool {
	return slices.ContainsFunc(p.pauses, func(sent *pause) bool {
		select {
		case <-sent.pending.Done():
			return false
		default:
			return !sent.seen
		}
	})
}

// newcomers reports whether another database was paused since our first look.
func (p *pooler) newcomers(v view) bool {
	return slices.ContainsFunc(v.others, func(name string) bool { return !slices.Contains(p.others.before, name) })
}

// settle reports whether the pause may stay. If so, no other cluster has paused the pooler. A callback that takes a pause over does not
// give way: the pause is not its own.
func (p *pooler) settle(ctx context.Context) (stays bool, err error) {
	if p.others.takesOver {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for stays = true; ; {
		v, err := p.look(ctx)
		if err != nil {
			return stays, err
		}
		if v.retry != p.mark.value() {
			return false, nil
		}
		if stays = !p.newcomers(v); stays && !p.unread() {
			return true, nil
		}
		if sleep(ctx, settleInterval) != nil {
			return stays, nil
		}
	}
}

// giveWay ends our pauses, and no other. The mark of another cluster stays. If ours has replaced it, one is left that stands for it.
func (p *pooler) giveWay(ctx context.Context) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	for len(p.pauses) > 0 {
		if err := p.resumeDatabase(ctx, p.pauses[0].database); err != nil {
			return err
		}
	}
	v, err := p.look(ctx)
	if err != nil || v.retry != p.mark.value() {
		return err
	}
	value := p.mark.formerValue()
	if p.newcomers(v) {
		value = p.mark.asYielded().value()
	}
	return p.console.Set(ctx, pgbouncer.ServerLoginRetry, value)
}

// state is what has become of a pause.
type state int

const (
	ended   state = iota // nothing is paused: the pooler was resumed, or pgbouncer has restarted
	ours                 // this watcher must end it
	foreign              // another callback is in charge
)

// stateOf returns what has become of our pause. Another mark may be that of a later callback, which has taken the pause over, or that of
// another cluster, which is about to give way. Both end soon. If neither does, the watcher ends the pause after all.
func (p *pooler) stateOf(v view, now time.Time) state {
	switch {
	case !v.paused && !p.unread():
		return ended
	case p.isOurMark(v.retry):
		p.others.retry = ""
		return ours
	case p.others.retry != v.retry:
		p.others.retry, p.others.since = v.retry, now
		return foreign
	case now.Sub(p.others.since) < foreignTime:
		return foreign
	default:
		return ours
	}
}

// isOurMark reports whether the value is our mark, or stands for it. A RELOAD of pgbouncer takes the mark away, and leaves the pause.
func (p *pooler) isOurMark(retry string) bool {
	m, marked := readMark(retry)
	return retry == p.mark.value() || retry == p.mark.formerValue() || marked && m.number == yielded
}
