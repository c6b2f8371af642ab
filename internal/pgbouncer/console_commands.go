package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Set changes a setting until pgbouncer reads its configuration file again. CheckSetting says which settings and values it accepts.
func (c *Console) Set(ctx context.Context, name, value string) error {
	if err := CheckSetting(name, value); err != nil {
		return err
	}
	if err := c.exec(ctx, "SET "+name+" = '"+value+"'", nil); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// Pending is a PAUSE that pgbouncer answers when it is complete, however long that takes. No context ends it. Close of the
// console ends only the wait: what pgbouncer has got continues. A PAUSE that is resumed while it waits is never answered, and its console
// stays unusable.
type Pending struct {
	done      chan struct{}
	err       error
	forwarded bool // it may come after the end of its console
}

// ErrUnread is the error of a PAUSE that could not be undone for certain: pgbouncer has not read it, and it may still come.
var ErrUnread = errors.New("pgbouncer has not read the PAUSE, and it may still come through the tunnel")

// Done returns a channel that is closed when pgbouncer has answered, or the connection has ended.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Err returns the error in pgbouncer's answer. It is nil before Done is closed.
func (p *Pending) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Pause lets no transaction start and waits for those in flight; in session mode it waits for the clients to disconnect. It
// is in force when pgbouncer has read it, soon after Pause returns. It stays in force until a RESUME, whether it was
// answered or not. ErrAlreadyPaused is a possible answer. Until the answer comes, other commands on this console wait. If the console ends
// before, what the network has held up of the PAUSE is discarded: it would come after a RESUME over another connection.
func (c *Console) Pause(ctx context.Context) (*Pending, error) { return c.pause(ctx, "PAUSE") }

func (c *Console) pause(ctx context.Context, command string) (*Pending, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, fmt.Errorf("pause: %w", err)
	}
	p := &Pending{done: make(chan struct{}), forwarded: c.conn.isForwarded()}
	results := c.session.Exec(context.Background(), command)
	go func() {
		defer close(p.done)
		defer c.release()
		defer c.endOnPanic()
		p.err = ErrClosed // unless the read ends
		if p.err = c.readAnswer(context.Background(), results, nil); p.err != nil {
			p.err = fmt.Errorf("pause: %w", p.err)
		}
	}()
	return p, nil
}

// Resume ends a pause, if there is one. For a pause that may not be in force yet, use UndoPause.
func (c *Console) Resume(ctx context.Context) error {
	if err := c.exec(ctx, "RESUME", nil); err != nil && !errors.Is(err, errNotPaused) {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

const (
	// undoTimeout bounds how long UndoPause waits until pgbouncer has read the PAUSE. That is thousands of times what it takes
	// without packet loss. After that, another client must have resumed pgbouncer.
	undoTimeout = 2 * time.Second
	// undoInterval is a few rounds of pgbouncer's event loop.
	undoInterval = 10 * time.Millisecond
)

// UndoPause ends a pause that another console requested, even if pgbouncer has not read that PAUSE yet. pgbouncer often
// reads the later of two commands first if they come over two connections, and a RESUME that comes too early leaves it
// paused. A PAUSE that it does not read in time is discarded with its console. Through a tunnel it is not: then the error is ErrUnread.
func (c *Console) UndoPause(ctx context.Context, pause *Pending) error {
	return c.undoPause(ctx, pause, "RESUME")
}

func (c *Console) undoPause(ctx context.Context, pause *Pending, resume string) error {
	ticker := time.NewTicker(undoInterval)
	defer ticker.Stop()
	for timeout, last := time.After(undoTimeout), false; ; {
		err := c.exec(ctx, resume, nil)
		switch {
		case err == nil || last && errors.Is(err, errNotPaused):
			return nil
		case !errors.Is(err, errNotPaused):
			return fmt.Errorf("undo a pause: %w", err)
		}
		select {
		case <-pause.Done():
			last = true // it may have completed after this RESUME
		case <-timeout:
			if pause.forwarded {
				return fmt.Errorf("undo a pause: %w", ErrUnread)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("undo a pause: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Reconnect closes every connection to the database as soon as a client releases it.
func (c *Console) Reconnect(ctx context.Context) error {
	if err := c.exec(ctx, "RECONNECT", nil); err != nil {
		return fmt.Errorf("reconnect: %w", err)
	}
	return nil
}

// CheckCommands sets a setting to the value that it has. It fails if the login may only read.
func (c *Console) CheckCommands(ctx context.Context) error {
	value, err := c.Setting(ctx, QueryWaitTimeout)
	if err != nil {
		return err
	}
	return c.Set(ctx, QueryWaitTimeout, value)
}

// ShutdownMode says what a shutdown waits for. The modes that wait exist since 1.23. They refuse new connections at once and
// cannot be undone; a signal to pgbouncer ends the wait.
type ShutdownMode string

// The modes (https://www.pgbouncer.org/usage.html#shutdown).
const (
	Immediate      ShutdownMode = "SHUTDOWN"
	WaitForServers ShutdownMode = "SHUTDOWN WAIT_FOR_SERVERS" // waits for open transactions; disconnects idle clients
	WaitForClients ShutdownMode = "SHUTDOWN WAIT_FOR_CLIENTS" // waits until every client, consoles included, has disconnected
)

// Shutdown starts the shutdown; Ended reports its end. The end of the connection in place of an answer is a success.
func (c *Console) Shutdown(ctx context.Context, mode ShutdownMode) error {
	if mode != Immediate && !c.version.WaitsOnShutdown() {
		return fmt.Errorf("%s: %w", strings.ToLower(string(mode)), ErrUnsupported)
	}
	before := c.HasEnded()
	err := c.exec(ctx, string(mode), nil)
	if err != nil && (before || !c.HasEnded()) {
		return fmt.Errorf("%s: %w", strings.ToLower(string(mode)), err)
	}
	return nil
}

// HasEnded reports whether Ended is closed.
func (c *Console) HasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// ShuttingDown reports whether pgbouncer, 1.23 or later, is shutting down: it then refuses every RESUME. Where that would end a pause, the
// closed port tells.
func (c *Console) ShuttingDown(ctx context.Context) (bool, error) {
	if !c.version.WaitsOnShutdown() {
		return false, fmt.Errorf("check for a shutdown: %w", ErrUnsupported)
	}
	paused, err := c.IsPaused(ctx)
	if err == nil && paused {
		return c.target.isRefused(ctx), nil
	}
	if err == nil {
		err = c.Resume(ctx)
	}
	if errors.Is(err, ErrShuttingDown) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("check for a shutdown: %w", err)
	}
	return false, nil
}
