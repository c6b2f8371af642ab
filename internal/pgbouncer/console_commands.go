package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Set changes a setting until the pooler reads its file again.
func (c *Console) Set(ctx context.Context, name, value string) error {
	if !settingName().MatchString(name) {
		return fmt.Errorf("set: %q is no name of a setting", name)
	}
	if _, err := c.exec(ctx, "SET "+name+" = '"+strings.ReplaceAll(value, "'", "''")+"'"); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

var settingName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9_]+$`) })

// Pending is a command that the pooler answers when it is done, however long that takes. No context ends it, and Close of
// the console does so on our side only: the pooler goes on. A PAUSE that somebody resumes while it waits is never answered:
// that console is of no more use.
type Pending struct {
	done chan struct{}
	err  error
}

// Done is closed when the pooler has answered, or the connection has ended.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Err is the pooler's answer. It is nil before Done is closed.
func (p *Pending) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Pause lets no transaction begin and waits for those in flight; where sessions are pooled, for the clients to leave. It is
// in force from when the pooler reads it, soon after we have returned, and whether answered or not stays in force until
// somebody resumes. ErrAlreadyPaused is an answer.
func (c *Console) Pause(ctx context.Context) (*Pending, error) { return c.send(ctx, "PAUSE") }

// WaitClose waits until every connection to the database that was to be closed by Reconnect is closed.
func (c *Console) WaitClose(ctx context.Context) (*Pending, error) { return c.send(ctx, "WAIT_CLOSE") }

// send sends a command and leaves the wait for its answer to the caller, who keeps others waiting for their turn.
func (c *Console) send(ctx context.Context, command string) (*Pending, error) {
	if err := c.take(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.ToLower(command), err)
	}
	p := &Pending{done: make(chan struct{})}
	results := c.session.Exec(context.Background(), command)
	go func() {
		defer close(p.done)
		defer c.give()
		if _, err := c.answer(context.Background(), results); err != nil {
			p.err = fmt.Errorf("%s: %w", strings.ToLower(command), err)
		}
	}()
	return p, nil
}

// Resume ends a pause, if there is one. To end one's own that was not seen to be in force, there is Undo.
func (c *Console) Resume(ctx context.Context) error {
	if _, err := c.exec(ctx, "RESUME"); err != nil && !errors.Is(err, errNotPaused) {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

const (
	// undoTimeout is how long Undo waits for the pooler to read the PAUSE: thousands of times what it takes where nothing is
	// lost on the way. After that somebody else must have resumed.
	undoTimeout = 2 * time.Second
	// undoInterval is a few rounds of the pooler's loop.
	undoInterval = 10 * time.Millisecond
)

// Undo ends the pause that was asked for on another console, even if the pooler has not come to read that yet: of what is
// sent over two connections, the later is often read first, and a RESUME that was too early leaves the pooler paused.
func (c *Console) Undo(ctx context.Context, pause *Pending) error {
	ticker := time.NewTicker(undoInterval)
	defer ticker.Stop()
	for timeout := time.After(undoTimeout); ; {
		_, err := c.exec(ctx, "RESUME")
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotPaused) {
			return fmt.Errorf("undo a pause: %w", err)
		}
		select {
		case <-pause.Done(): // it may have begun and been complete since
			return c.Resume(ctx)
		case <-timeout:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("undo a pause: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Reconnect has every connection to the database closed as soon as a client lets go of it.
func (c *Console) Reconnect(ctx context.Context) error {
	if _, err := c.exec(ctx, "RECONNECT"); err != nil {
		return fmt.Errorf("reconnect: %w", err)
	}
	return nil
}

// ShutdownMode says what a shutdown waits for. Those that wait exist since 1.23, refuse new connections at once, and cannot
// be undone; a signal to the pooler cuts them short.
type ShutdownMode string

// The modes (https://www.pgbouncer.org/usage.html#shutdown).
const (
	Immediate      ShutdownMode = "SHUTDOWN"
	WaitForServers ShutdownMode = "SHUTDOWN WAIT_FOR_SERVERS" // for the transactions in flight; idle clients are cut off
	WaitForClients ShutdownMode = "SHUTDOWN WAIT_FOR_CLIENTS" // for every client to leave, consoles included
)

// Shutdown begins to end the pooler, which Ended tells of. The end of the connection instead of an answer is what was asked for.
func (c *Console) Shutdown(ctx context.Context, mode ShutdownMode) error {
	if mode != Immediate && !c.version.WaitsOnShutdown() {
		return fmt.Errorf("%s: %w", strings.ToLower(string(mode)), ErrUnsupported)
	}
	before := c.HasEnded()
	_, err := c.exec(ctx, string(mode))
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

// ShuttingDown tells, since 1.23, whether a shutdown is under way: from then on a RESUME is refused, whatever else there is.
// It must not be asked while the pooler is paused, which it would resume.
func (c *Console) ShuttingDown(ctx context.Context) (bool, error) {
	if !c.version.WaitsOnShutdown() {
		return false, fmt.Errorf("look for a shutdown: %w", ErrUnsupported)
	}
	err := c.Resume(ctx)
	if errors.Is(err, ErrShuttingDown) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a shutdown: %w", err)
	}
	return false, nil
}
