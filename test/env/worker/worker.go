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
	// connectPause is the time between a failed connection and the next: short, so that no stall is much longer than its cause,
	// and not zero, so that refused connections make no busy loop.
	connectPause = 100 * time.Millisecond
	// recycleJitter is the random part of a connection's age: large enough that connections made at once do not close at once,
	// small enough that all close soon after the first.
	recycleJitter = 0.25
)

// worker runs one transaction after another on its own connection.
type worker struct {
	behavior
	recorder *recorder
	number   int
	config   *pgconn.Config
	login    string // folder with the login; empty: that of config
}

// behavior is how a worker works.
type behavior struct {
	hold     time.Duration // how long a transaction lasts
	think    time.Duration // between transactions
	recycle  time.Duration // a connection's maximum age; 0: none
	validate bool
}

// run works until ctx ends, then finishes the present transaction.
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
	c, err := connect(w.config, w.login)
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

// serve works on one connection until the connection breaks or expires, or ctx ends.
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

// round runs one transaction. It reports whether the connection is still good.
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

// statements returns a transaction, one statement per round trip.
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
