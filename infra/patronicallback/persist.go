package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A pooler that does not answer may be cut off, or stand still, and it stays paused. So a watcher that must end a pause tries again and again.

const (
	// watchTime bounds a watcher. A pooler that is cut off for longer must be resumed by hand. A longer time would keep more processes in
	// Patroni's container for poolers that are gone, and whose address says nothing.
	watchTime = time.Hour
	// maxInterval is between two attempts in the long run: clients wait so much longer at most. Each attempt is a new connection.
	maxInterval = 5 * time.Second
	// goneTime is how long a pooler must not answer before its name decides whether it is gone. A Service that does not publish addresses
	// that are not ready drops a pooler for a moment; a longer time keeps the watcher of a deleted pod.
	goneTime = time.Minute
)

var (
	errGone    = errors.New("no name in -poolers leads to the pooler any more")
	errDemoted = errors.New("this member is no longer the primary: the next one resumes the pooler")
)

// notAnswering and markedByNext are logged once for each pooler.
const (
	notAnswering = "failed to reach the console of the pooler: trying again"
	markedByNext = "another callback has marked the pooler: waiting until that one resumes"
)

// keepTrying calls do until it succeeds, the pooler is known to be gone, this member is known not to lead, or ctx ends.
func (w watcher) keepTrying(ctx context.Context, p *pooler, do func() error) error {
	log, told := w.log.With("pooler", p.address), map[string]bool{}
	began := time.Now()
	for interval := resumeInterval; ; interval = min(2*interval, maxInterval) {
		err, message := do(), notAnswering
		switch {
		case err == nil || errors.Is(err, errDemoted):
			return err
		case errors.Is(err, errForeign): // it answers
			began, interval, message = time.Now(), resumeInterval, markedByNext
		case time.Since(began) > goneTime && w.gone(ctx, p):
			return fmt.Errorf("%w: %w", errGone, err)
		}
		if !told[message] {
			log.Warn(message, "error", err)
			told[message] = true
		}
		if sleep(ctx, interval) != nil {
			return err
		}
	}
}

// gone reports whether the names of the poolers are known, and none leads to this one. Then its pod is deleted.
func (w watcher) gone(ctx context.Context, p *pooler) bool {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	found, err := w.options.addresses(ctx)
	return err == nil && !slices.Contains(found, p.address)
}

// reach looks at a pooler until it answers. Once the promotion must be over, a member that does not lead stops: watchers of former leaders
// must not pile up, and the next leader has its own.
func (w watcher) reach(ctx context.Context, p *pooler, promotedBy time.Time) (v view, err error) {
	err = w.keepTrying(ctx, p, func() (err error) {
		if time.Now().After(promotedBy) {
			if now, err := w.patroni.look(ctx); err == nil && !now.leads() {
				return errDemoted
			}
		}
		v, err = p.look(ctx)
		return err
	})
	return v, err
}
