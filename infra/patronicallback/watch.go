package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// promotionTime is how long the new leader's watcher waits for a write. It is called when a promotion begins, which takes seconds at
	// most.
	promotionTime = 15 * time.Second
	// holdInterval is between two looks at a pooler whose clients wait.
	holdInterval = 250 * time.Millisecond
	// patroniTime bounds the questions to Patroni, several in a second: no pause waits longer for a primary.
	patroniTime = 2 * time.Minute
	// resumeInterval is between the first attempts to resume a pooler: short for clients, long for a busy pgbouncer.
	resumeInterval = 500 * time.Millisecond
	// restoreTime bounds all attempts to restore a pooler's setting. A mark that remains is harmless, and the next callback restores the setting.
	restoreTime = 20 * time.Second
	// margin is for the kube-proxies of the poolers' nodes, if no alias proves that a write reaches the primary. It is that of
	// internal/postgres.
	margin = 1500 * time.Millisecond
	// proofTries is how many writes must succeed, proofInterval apart: two nodes' kube-proxies may be at different points.
	proofTries, proofInterval = 2, 500 * time.Millisecond
	// reconnectDelay is between RESUME and RECONNECT, for kube-proxies that are slower still.
	reconnectDelay = 3 * time.Second
)

// watcher holds the clients of all poolers of a cluster, and lets them go.
type watcher struct {
	options options
	patroni patroni
	log     *slog.Logger

	promoted bool // this member has just become the primary
}

func newWatcher(o options, log *slog.Logger) watcher {
	return watcher{options: o, patroni: patroni{o.patroni}, log: log}
}

// pause pauses all poolers if this member is the primary, calls stop when PostgreSQL may stop, and resumes them when this member is the
// primary again, or their time is over.
func (w watcher) pause(ctx context.Context, stop func()) error {
	now, err := w.patroni.look(ctx)
	leads := now.leads()
	if err != nil {
		w.log.Info("PostgreSQL's own state decides", "because", err)
		leads, err = runsPrimary(w.options.data)
	}
	if err != nil || !leads {
		return err // a replica, or not known
	}
	poolers, err := w.poolers(ctx)
	if err != nil {
		w.log.Warn("not all poolers are known", "error", err)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	primary := w.patroni.awaitPrimary(ctx, patroniTime, true)
	patience, over := context.WithTimeout(ctx, openTime+now.patience(time.Now(), w.options.transactions))
	defer over()
	number := newNumber()
	var paused, all sync.WaitGroup
	for _, p := range poolers {
		paused.Add(1)
		all.Go(func() {
			defer p.close()
			until, result := w.pauseOne(patience, p, number)
			paused.Done()
			switch result {
			case held:
				w.hold(ctx, p, until, primary)
			case givesWay:
				w.giveWay(ctx, p)
			}
		})
	}
	paused.Wait()
	stop()
	all.Wait()
	return nil
}

// outcome is what must be done about a pooler after the attempt to pause it.
type outcome int

const (
	leftAlone outcome = iota // nothing
	held                     // it must be resumed
	givesWay                 // our pause must end at once: another cluster has paused it
)

// pauseOne pauses one pooler, and waits for its transactions until ctx ends. It returns what must follow, and when the pause must end.
func (w watcher) pauseOne(ctx context.Context, p *pooler, number int) (until time.Time, result outcome) {
	log := w.log.With("pooler", p.address)
	opening, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	v, err := p.lookBefore(opening, w.options.resumeAfter)
	if err == nil {
		err = v.refuse()
	}
	until = time.Now().Add(v.limit)
	marked := false
	if err == nil {
		marked, err = p.pause(opening, v, number)
	}
	if !marked {
		log.Warn("left the pooler alone", "error", err)
		return until, leftAlone
	}
	stays, settleErr := p.settle(ctx)
	switch err = errors.Join(err, settleErr); {
	case !stays:
		log.Warn("left the pooler alone", "error", errors.Join(err, errRival))
		return until, givesWay
	case err != nil:
		log.Warn("failed to pause the pooler", "error", err)
		return until, held
	}
	if err := p.await(ctx); err != nil {
		log.Warn("PostgreSQL stops although transactions are open", "error", err)
	}
	log.Info("paused the pooler", "for", v.limit)
	return until, held
}

// giveWay ends our pause of a pooler that another cluster has paused.
func (w watcher) giveWay(ctx context.Context, p *pooler) {
	if err := w.keepTrying(ctx, p, func() error { return p.giveWay(ctx) }); err != nil {
		w.logFailure(p, err)
		return
	}
	w.finish(ctx, p, false)
}

// resume resumes all poolers that a callback has paused, when this member accepts writes.
func (w watcher) resume(ctx context.Context) {
	w.promoted = true
	poolers, err := w.poolers(ctx)
	if err != nil {
		w.log.Warn("not all poolers are known", "error", err)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	primary := w.patroni.awaitPrimary(ctx, promotionTime, false)
	until := time.Now().Add(promotionTime)
	var all sync.WaitGroup
	for _, p := range poolers {
		all.Go(func() {
			defer p.close()
			w.resumeOne(ctx, p, until, primary)
		})
	}
	all.Wait()
}

func (w watcher) resumeOne(ctx context.Context, p *pooler, until time.Time, primary <-chan struct{}) {
	v, err := w.reach(ctx, p, until)
	if err != nil {
		w.logFailure(p, err)
		return
	}
	if late := time.Now().After(until); late { // what was true then may not be now
		until = time.Now().Add(promotionTime)
		primary = w.patroni.awaitPrimary(ctx, promotionTime, false)
	}
	if v.ours() {
		p.mark, _ = readMark(v.retry)
		w.hold(ctx, p, until, primary)
	} else if _, is := v.leftover(); is {
		w.finish(ctx, p, true)
	}
}

// logFailure says why a pooler may still be paused.
func (w watcher) logFailure(p *pooler, err error) {
	log := w.log.With("pooler", p.address)
	if errors.Is(err, errGone) || errors.Is(err, errDemoted) {
		log.Info("left the pooler alone", "because", err)
		return
	}
	log.Error("failed to resume the pooler: if it is paused, send RESUME to its console", "error", err)
}

// hold waits until clients of a pooler may go on, and lets them go. It does nothing if another process has let them go.
func (w watcher) hold(ctx context.Context, p *pooler, until time.Time, primary <-chan struct{}) {
	log := w.log.With("pooler", p.address)
	why, proven := "its time is over", false
	if w.awaitPrimary(ctx, p, until, primary) {
		why = "this member is the primary"
		if proven = w.prove(ctx, p, until); proven {
			why = "a write reached the primary"
		}
	}
	var did bool
	err := w.keepTrying(ctx, p, func() (err error) { did, err = p.resume(ctx); return err })
	switch {
	case err != nil:
		w.logFailure(p, err)
		return
	case did:
		log.Info("resumed the pooler", "because", why)
	default:
		log.Info("the pause is over: another callback or a person has resumed the pooler, or it has restarted")
	}
	w.finish(ctx, p, w.promoted && !proven)
}

// awaitPrimary waits until this member is the primary, and reports whether it is. It ends early if the pause is over.
func (w watcher) awaitPrimary(ctx context.Context, p *pooler, until time.Time, primary <-chan struct{}) bool {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for ctx.Err() == nil {
		if v, err := p.look(ctx); err == nil && p.stateOf(v, time.Now()) == ended {
			return false
		}
		select {
		case <-primary:
			return true
		case <-time.After(holdInterval):
		}
	}
	return false
}

// prove waits until writes through the pooler's alias succeed, and reports whether they did. Without an alias it waits for the margin.
func (w watcher) prove(ctx context.Context, p *pooler, until time.Time) bool {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	v, err := p.look(ctx)
	if err != nil || !v.alias {
		_ = sleep(ctx, margin)
		return false
	}
	succeeded := 0
	return retry(ctx, until, proofInterval, func() error {
		if err := p.target.ProveWrite(ctx, p.aliasName); err != nil {
			succeeded = 0
			return err
		}
		if succeeded++; succeeded < proofTries {
			return errors.New("once more")
		}
		return nil
	}) == nil
}

// finish restores what a RESUME leaves, after a delay. Connections are renewed only if they may lead to the old primary: pgbouncer cuts a
// login under way then, and if it has no other connection it fails the clients that wait.
func (w watcher) finish(ctx context.Context, p *pooler, reconnect bool) {
	_ = sleep(ctx, reconnectDelay)
	err := retry(ctx, time.Now().Add(restoreTime), resumeInterval, func() error { return p.finish(ctx, reconnect) })
	if err != nil {
		w.log.Warn("failed to restore the settings of the pooler", "pooler", p.address, "error", err)
	}
}

func (w watcher) poolers(ctx context.Context) (found []*pooler, err error) {
	target, err := w.options.target()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	addresses, err := w.options.addresses(ctx)
	for _, address := range addresses {
		found = append(found, newPooler(address, target, w.options))
	}
	return found, err
}

// retry calls do until it succeeds, the time is over, or ctx ends. It returns the last error.
func retry(ctx context.Context, until time.Time, interval time.Duration, do func() error) error {
	for {
		err := do()
		if err == nil || time.Now().Add(interval).After(until) || sleep(ctx, interval) != nil {
			return err
		}
	}
}
