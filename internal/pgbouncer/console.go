// Package pgbouncer is a client of pgbouncer's admin console (https://www.pgbouncer.org/usage.html#admin-console).
// It knows nothing of Kubernetes.
//
// What the console is like decides how it is used here:
//
//   - It speaks the simple query protocol only, one command a message, and knows no pings: so there is one connection, held
//     from before the first act to the end, and no pool. Once logged in, it outlives a change of password, a PAUSE and a
//     shutdown, during all of which no new login may be possible.
//   - A CancelRequest for any command of a console resumes all that is paused, and a PAUSE so cancelled is never answered.
//     Such requests cannot leave this package. A context bounds how long we wait for an answer, and a console that did not
//     give one in time is closed; PAUSE and WAIT_CLOSE take as long as the clients' transactions do, and are watched from
//     a second console.
//   - PAUSE stays in force when the connection ends that asked for it. Of what is sent over two connections the later is often
//     read first: a RESUME can come too early.
//   - The columns of SHOW moved from version to version (https://www.pgbouncer.org/changelog.html): they go by name.
//   - Since 1.23, SIGTERM waits for the clients to leave, and a second signal ends the pooler at once; a shutdown that was
//     begun on the console counts as the first (https://www.pgbouncer.org/usage.html#signals).
package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// commandTimeout bounds the wait for an answer that needs no waiting: a pooler has one thread, which may be busy for a
// moment, but one that is silent for this long is stuck or gone, and its console of no more use.
const commandTimeout = 5 * time.Second

// Console is a connection to an admin console, logged in. Its methods may be used concurrently; commands then take turns.
type Console struct {
	target  Target
	version Version
	raw     *metered // below session and its TLS: closing it ends whatever goes on there, and never blocks

	turn    chan struct{} // held by whoever uses session
	session *pgconn.PgConn
	unwatch func() // stops looking for the connection's end; valid while nobody has the turn

	close sync.Once
	over  chan struct{} // closed when the connection is of no more use, for whatever reason
	ended chan struct{} // closed when it was the server, or the network, that ended it
}

// Open logs in to a console, within loginTimeout. ErrRefused is the answer to wrong credentials.
func Open(ctx context.Context, t Target) (*Console, error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("open the console: %w", err)
	}
	c, err := t.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the console: %w", err)
	}
	return c, nil
}

func newConsole(t Target, version Version, session *pgconn.PgConn, raw *metered) *Console {
	c := &Console{
		target: t, version: version, session: session, raw: raw,
		turn: make(chan struct{}, 1), over: make(chan struct{}), ended: make(chan struct{}),
	}
	c.watch()
	return c
}

// Again opens a second console with the login that worked. It is the same pooler's unless several processes share the port
// (https://www.pgbouncer.org/config.html#so_reuseport).
func (c *Console) Again(ctx context.Context) (*Console, error) {
	again, err := c.target.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a second console: %w", err)
	}
	return again, nil
}

// Version is what the pooler said of itself at the login.
func (c *Console) Version() Version { return c.version }

// Ended is closed when the pooler has ended the connection, or the network has; not by Close, nor when a command had no answer
// in time. It is noticed at once, as somebody reads at all times.
func (c *Console) Ended() <-chan struct{} { return c.ended }

// Usable reports whether commands may still be sent.
func (c *Console) Usable() bool {
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// Close ends the connection, and with it every wait for an answer. It never blocks. What was commanded stays in force.
func (c *Console) Close() { c.end(false) }

// end lets go of the connection. The first reason counts.
func (c *Console) end(byServer bool) {
	c.close.Do(func() {
		if byServer {
			close(c.ended)
		}
		close(c.over)
		c.raw.Close()
	})
}

// watch reads between commands, when the server has nothing to say but that it leaves.
func (c *Console) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	c.unwatch = func() { cancel(); <-stopped }
	go func() {
		defer close(stopped)
		defer cancel()
		for ctx.Err() == nil && !c.session.IsClosed() {
			_ = c.session.WaitForNotification(ctx) // there are none: an error, which we look for in other ways
		}
		if c.session.IsClosed() {
			c.end(true)
		}
	}()
}

// take waits for the turn to use the session; give passes it on.
func (c *Console) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.over:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("another command is under way: %w", context.Cause(ctx))
	}
	c.unwatch()
	c.raw.left.Store(maxAnswer)
	select {
	case <-c.over:
		c.give()
		return ErrClosed
	default:
		return nil
	}
}

func (c *Console) give() {
	c.watch()
	<-c.turn
}

// exec sends a command and waits for its answer.
func (c *Console) exec(ctx context.Context, command string) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	defer c.give()
	return c.answer(ctx, c.session.Exec(ctx, command))
}

// answer reads the answer to a command. A connection that breaks, or on which there was none in time, is of no more use.
func (c *Console) answer(ctx context.Context, results *pgconn.MultiResultReader) ([]*pgconn.Result, error) {
	answer, err := results.ReadAll()
	switch {
	case err == nil:
		return answer, nil
	case !c.session.IsClosed():
		return nil, explain(err, commandMeanings)
	case ctx.Err() != nil:
		c.end(false)
		return nil, fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	default:
		c.end(true)
		return nil, closed(err)
	}
}

// closed says with what last words the connection ended, if there were any.
func closed(err error) error {
	if words, is := errors.AsType[*pgconn.PgError](err); is {
		return fmt.Errorf("%w: %w", ErrClosed, words)
	}
	return ErrClosed
}
