// Package pgbouncer is a client of pgbouncer's admin console (https://www.pgbouncer.org/usage.html#admin-console).
// It knows nothing of Kubernetes.
//
// The console has its own rules, and the package follows them:
//
//   - The console understands only the simple query protocol, one command per message, and no pings. So a Console is one
//     connection and not a pool, held from before the first change to the end. Once logged in, it survives a change of
//     password, a PAUSE and a shutdown. A new login may be impossible during each of them.
//   - A CancelRequest for any command of a console resumes everything that is paused, and the canceled PAUSE gets no answer.
//     This package never sends one. A context bounds the wait for an answer, and a console that does not answer in time is
//     closed. A PAUSE takes as long as the clients' transactions, so a second console watches it.
//   - A PAUSE stays in force when its connection ends. pgbouncer often reads the later of two commands first if they come
//     over two connections, so a RESUME can come too early.
//   - The columns of SHOW differ between versions (https://www.pgbouncer.org/changelog.html), so they are read by name.
//     SHOW STATE, which says whether a pooler is paused, exists since 1.19.
//   - Since 1.23, SIGTERM waits for the clients to disconnect, and a second signal ends pgbouncer at once. A shutdown that a
//     console started counts as the first signal (https://www.pgbouncer.org/usage.html#signals).
package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// commandTimeout bounds the wait for an answer that pgbouncer can give at once. pgbouncer has one thread, which may be busy
// for a moment. After 5 s without an answer it is stuck or gone, and the console is useless.
const commandTimeout = 5 * time.Second

// Console is a logged-in connection to an admin console. Its methods are safe for concurrent use; commands then run one by one.
type Console struct {
	target  Target
	version Version
	conn    *limitedConn // below session and its TLS: closing it ends every read and write, and never blocks

	lock      chan struct{} // full while a command uses session
	session   *pgconn.PgConn
	stopWatch func() // stops the read between commands; valid while lock is free

	close  sync.Once
	closed chan struct{} // closed when the connection is no longer usable, for any reason
	ended  chan struct{} // closed when the server or the network ended the connection
}

// Open logs in to a console, within loginTimeout. The error is ErrRefused if the credentials are wrong.
func Open(ctx context.Context, t Target) (*Console, error) {
	if err := t.validate(); err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	c, err := t.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	return c, nil
}

func newConsole(t Target, version Version, session *pgconn.PgConn, raw *limitedConn) *Console {
	c := &Console{
		target: t, version: version, session: session, conn: raw,
		lock: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	c.watch()
	return c
}

// OpenAnother opens a second console of the same pgbouncer with the same login. The error is ErrShared where it may be one of another
// process: what it pauses there, this console could not resume.
func (c *Console) OpenAnother(ctx context.Context) (*Console, error) {
	if err := c.CheckAlone(ctx); err != nil {
		return nil, fmt.Errorf("open another console: %w", err)
	}
	another, err := c.target.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open another console: %w", err)
	}
	return another, nil
}

// Version returns the version that pgbouncer reported at the login.
func (c *Console) Version() Version { return c.version }

// Ended returns a channel that is closed when pgbouncer or the network has ended the connection. Close does not close it, and a
// command without an answer in time does not either. The end is noticed at once, because a read is always pending.
func (c *Console) Ended() <-chan struct{} { return c.ended }

// Usable reports whether commands may still be sent.
func (c *Console) Usable() bool {
	select {
	case <-c.closed:
		return false
	default:
		return true
	}
}

// Close ends the connection, and with it every wait for an answer. It never blocks. Commands that were sent stay in force.
func (c *Console) Close() { c.end(false) }

// end closes the connection. Only the first call counts.
func (c *Console) end(byServer bool) {
	c.close.Do(func() {
		if byServer {
			close(c.ended)
		}
		close(c.closed)
		c.conn.Close()
	})
}

// watch reads between commands. All that the server sends then is the end of the connection.
func (c *Console) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	c.stopWatch = func() { cancel(); <-stopped }
	go func() {
		defer close(stopped)
		defer cancel()
		defer c.endOnPanic()
		for ctx.Err() == nil && c.Usable() && !c.session.IsClosed() {
			_ = c.session.WaitForNotification(ctx) // there are no notifications: it returns when the connection or ctx ends
		}
		if c.session.IsClosed() {
			c.end(true)
		}
	}()
}

// endOnPanic ends the console if the goroutine that defers it panics over what a server sent. Nothing else could recover from that, and
// the whole process would end.
func (c *Console) endOnPanic() {
	if cause := recover(); cause != nil {
		c.end(true)
	}
}

// acquire waits for the lock on the session and stops the read between commands. release undoes both.
func (c *Console) acquire(ctx context.Context) error {
	select {
	case c.lock <- struct{}{}:
	case <-c.closed:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("another command is running: %w", context.Cause(ctx))
	}
	c.stopWatch()
	c.conn.renew()
	select {
	case <-c.closed:
		c.release()
		return ErrClosed
	default:
		return nil
	}
}

func (c *Console) release() {
	c.watch()
	<-c.lock
}

// exec sends a command, and calls read for each row of its answer. Read may be nil. A row is valid until read returns.
func (c *Console) exec(ctx context.Context, command string, read func(*row)) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	return c.readAnswer(ctx, c.session.Exec(ctx, command), read)
}

// readAnswer reads the answer to a command. It closes a connection that breaks, or on which no answer comes in time.
func (c *Console) readAnswer(ctx context.Context, results *pgconn.MultiResultReader, read func(*row)) error {
	rowErr := readRows(results, read)
	err := results.Close()
	switch {
	case err == nil:
		return rowErr
	case !c.session.IsClosed():
		return explain(err, commandErrors)
	case ctx.Err() != nil:
		c.end(false)
		return fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	default:
		c.end(true)
		return c.closedError(err)
	}
}

// closedError returns ErrClosed, with the server's last message if it sent one, or the limit that it exceeded.
func (c *Console) closedError(err error) error {
	limit := c.conn.exceeded.Load()
	message, is := errors.AsType[*pgconn.PgError](err)
	switch {
	case limit != nil:
		return fmt.Errorf("%w: %w", ErrClosed, limit)
	case is:
		return fmt.Errorf("%w: %s", ErrClosed, printable(message.Error()))
	default:
		return ErrClosed
	}
}
