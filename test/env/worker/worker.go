package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"quiesce/test/env/worker/ledger"
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
	habits
	book   *book
	number int
	config *pgconn.Config
}

// habits are how workers work.
type habits struct {
	hold     time.Duration // how long a transaction lasts
	think    time.Duration // between transactions
	recycle  time.Duration // a connection's age; zero: as old as it gets
	validate bool
}

// run works until ctx ends, and then finishes the transaction that it is in.
func (w *worker) run(ctx context.Context) {
	defer w.book.enter(ledger.Stopped)
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
	w.book.enter(ledger.Connecting)
	c, err := connect(w.config)
	if err != nil {
		w.book.unconnected(err)
		return nil, err
	}
	w.book.connected()
	if w.recycle > 0 {
		c.retire = time.Now().Add(time.Duration(float64(w.recycle) * (1 - recycleJitter*rand.Float64())))
	}
	return c, nil
}

// serve works on one connection until it breaks or is old enough, or ctx ends.
func (w *worker) serve(ctx context.Context, c *connection) {
	for ctx.Err() == nil && !c.old() {
		if !w.round(c) {
			c.drop()
			return
		}
		w.book.enter(ledger.Thinking)
		pause(ctx, w.think)
	}
	c.leave()
}

// round does one transaction. It reports whether the connection is still good.
func (w *worker) round(c *connection) bool {
	w.book.enter(ledger.Beginning)
	if w.validate {
		if err := c.exec("SELECT 1"); err != nil {
			w.book.invalid(err)
			return false
		}
	}
	for _, s := range w.statements(w.book.next()) {
		w.book.enter(s.state)
		if err := c.exec(s.sql); err != nil {
			w.book.fail(err)
			return false
		}
	}
	w.book.commit()
	return true
}

type statement struct {
	state ledger.State
	sql   string
}

// statements are a transaction, each a round trip of its own.
func (w *worker) statements(n int64) []statement {
	return []statement{
		{ledger.Beginning, "BEGIN"},
		{ledger.Working, fmt.Sprintf("INSERT INTO commits(worker, n) VALUES (%d, %d)", w.number, n)},
		{ledger.Working, fmt.Sprintf("SELECT pg_sleep(%g)", w.hold.Seconds())},
		{ledger.Committing, "COMMIT"},
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
