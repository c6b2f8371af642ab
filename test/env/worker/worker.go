package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"quiesce/test/env/worker/journal"
)

const (
	// connectPause lies between a connection that failed and the next: short, so that no stall is longer than its cause;
	// not zero, so that a refused connection does not make a busy loop.
	connectPause = 100 * time.Millisecond
	// recycleJitter is the part of a connection's age that is left to chance: enough that connections made at once do not
	// leave at once, little enough that they are all gone soon after the first.
	recycleJitter = 0.25
)

// worker does one job after another on a connection of its own.
type worker struct {
	behavior
	recorder *recorder
	number   int
	config   *pgconn.Config
}

// behavior are how workers work.
type behavior struct {
	hold     time.Duration // how long a transaction lasts
	think    time.Duration // between transactions
	recycle  time.Duration // a connection's age; zero: as old as it gets
	validate bool
}

// run works until ctx ends, and then finishes the transaction that it is in.
func (w *worker) run(ctx context.Context) {
	defer w.recorder.enter(journal.Stopped)
	for ctx.Err() == nil {
		c, err := w.connect()
		if err != nil {
			pause(ctx, connectPause)
			continue
		}
		w.serve(ctx, c)
	}
}

func (w *worker) connect() (*connection, error) {
	w.recorder.enter(journal.Connecting)
	c, err := connect(w.config)
	if err != nil {
		w.recorder.connectFailed(err)
		return nil, err
	}
	w.recorder.connected()
	if w.recycle > 0 {
		c.retire = time.Now().Add(time.Duration(float64(w.recycle) * (1 - recycleJitter*rand.Float64())))
	}
	return c, nil
}

// serve works on one connection until it breaks or is old enough, or ctx ends.
func (w *worker) serve(ctx context.Context, c *connection) {
	for ctx.Err() == nil && !c.isExpired() {
		if !w.round(c) {
			c.drop()
			return
		}
		w.recorder.enter(journal.Thinking)
		pause(ctx, w.think)
	}
	c.close()
}

// round does one transaction. It reports whether the connection is still good.
func (w *worker) round(c *connection) bool {
	w.recorder.enter(journal.Beginning)
	if w.validate {
		if err := c.exec("SELECT 1"); err != nil {
			w.recorder.validationFailed(err)
			return false
		}
	}
	for _, s := range w.statements(w.recorder.begin()) {
		w.recorder.enter(s.state)
		if err := c.exec(s.sql); err != nil {
			w.recorder.fail(err)
			return false
		}
	}
	w.recorder.commit()
	return true
}

type statement struct {
	state journal.State
	sql   string
}

// statements are a transaction, each a round trip of its own.
func (w *worker) statements(n int64) []statement {
	return []statement{
		{journal.Beginning, "BEGIN"},
		{journal.Working, fmt.Sprintf("INSERT INTO commits(worker, n) VALUES (%d, %d)", w.number, n)},
		{journal.Working, fmt.Sprintf("SELECT pg_sleep(%g)", w.hold.Seconds())},
		{journal.Committing, "COMMIT"},
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
