package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// maxDatabases bounds the databases of one pooler that are paused: each needs a console while it is paused, and a server may invent them.
const maxDatabases = 32

// reachTimeout bounds the login with which checkReached tries whether there is a way back. Clients wait for it.
const reachTimeout = 2 * time.Second

// Consoles opens real consoles.
type Consoles struct{ escort.Consoles }

var _ PoolerConsoles = Consoles{}

// NewConsoles returns consoles that are reached with this setting of TLS, as the configuration has it.
func NewConsoles(c escort.Consoles, tls string) Consoles {
	c.TLS = pgbouncer.TLSMode(tls)
	return Consoles{c}
}

// Open logs in to the console of the pod.
func (c Consoles) Open(ctx context.Context, p escort.Pod) (Console, error) {
	ctx, cancel := escort.WithConsoleTimeout(ctx)
	defer cancel()
	opened, err := c.Consoles.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return &poolerConsole{main: opened, pauses: map[string]*pause{}}, nil
}

// poolerConsole is the console of one pooler, and one more for each database that it pauses: a console waits for the answer to a PAUSE.
// Several databases may be paused at the same time.
type poolerConsole struct {
	main *pgbouncer.Console

	mutex  sync.Mutex
	pauses map[string]*pause // by database
	unread bool              // a PAUSE may still come
	asks   bool              // pgbouncer asks a database for the passwords of users that its own file lacks
}

func (c *poolerConsole) pauseOf(database string) *pause {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.pauses[database]
}

// setPause notes the pause of a database; nil: it is over. It reports false if there are too many.
func (c *poolerConsole) setPause(database string, p *pause) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if p == nil {
		delete(c.pauses, database)
		return true
	}
	if len(c.pauses) >= maxDatabases {
		return false
	}
	c.pauses[database] = p
	return true
}

type pause struct {
	console *pgbouncer.Console
	pending *pgbouncer.Pending
}

// Look implements Console.
func (c *poolerConsole) Look(ctx context.Context) (PoolerState, error) {
	pools, err := c.main.Pools(ctx)
	if err != nil {
		return PoolerState{}, err
	}
	streaming, err := c.main.Streaming(ctx)
	if err != nil {
		return PoolerState{}, err
	}
	wait, err := c.main.Timeout(ctx, pgbouncer.QueryWaitTimeout)
	if err != nil {
		return PoolerState{}, err
	}
	limit, err := c.main.Timeout(ctx, pgbouncer.QueryTimeout)
	if err != nil {
		return PoolerState{}, err
	}
	retry, err := c.main.Setting(ctx, pgbouncer.ServerLoginRetry)
	if err != nil {
		return PoolerState{}, err
	}
	authUser, _ := c.main.Setting(ctx, "auth_user") // only a warning needs it
	forPasswords := ""
	if c.asks = authUser != ""; c.asks {
		forPasswords, _ = c.main.Setting(ctx, "auth_dbname") // pgbouncer before 1.19 has none
	}
	alone := c.main.CheckAlone(ctx)
	if alone != nil && !errors.Is(alone, pgbouncer.ErrShared) {
		return PoolerState{}, alone
	}
	databases, err := c.databases(ctx, pools, authUser)
	if err != nil {
		return PoolerState{}, err
	}
	state := PoolerState{LoginRetry: retry, QueryWait: wait, QueryTime: limit, AuthQuery: c.asks, Shared: alone != nil}
	for _, d := range databases {
		if d.Name == forPasswords && isOnlyAsked(poolsOf(pools, d.Name), authUser) {
			continue
		}
		used := poolsOf(pools, d.Name)
		state.Databases = append(state.Databases, PoolerDatabase{
			Name: d.Name, Host: d.Host, Paused: d.Paused, InUse: used.Clients() > 0, Sessions: used.HasSessions(),
			Streams: slices.Contains(streaming, d.Name),
		})
	}
	return state, nil
}

// isOnlyAsked reports whether only pgbouncer itself has used a database since pgbouncer started: it has no client now, and no pool of another
// user, which outlives its clients. Such a database is not paused, so that a console's user whose password is there can still log in.
func isOnlyAsked(pools pgbouncer.Pools, authUser string) bool {
	return pools.Clients() == 0 && !slices.ContainsFunc(pools, func(p pgbouncer.Pool) bool { return p.User != authUser })
}

// CheckCommands implements Console.
func (c *poolerConsole) CheckCommands(ctx context.Context) error { return c.main.CheckCommands(ctx) }

func poolsOf(all pgbouncer.Pools, database string) (pools pgbouncer.Pools) {
	for _, p := range all {
		if p.Database == database {
			pools = append(pools, p)
		}
	}
	return pools
}

// Oldest implements Console.
func (c *poolerConsole) Oldest(ctx context.Context, database string) (time.Duration, error) {
	return c.main.OldestTransaction(ctx, database)
}

// SetLoginRetry implements Console.
func (c *poolerConsole) SetLoginRetry(ctx context.Context, seconds string) error {
	return c.main.Set(ctx, pgbouncer.ServerLoginRetry, seconds)
}

// Pause implements Console.
func (c *poolerConsole) Pause(ctx context.Context, database string) error {
	second, err := c.main.OpenAnother(ctx)
	if err != nil {
		return err
	}
	sent := &pause{console: second}
	if !c.setPause(database, sent) {
		second.Close()
		return fmt.Errorf("more than %d databases to pause", maxDatabases)
	}
	pending, err := second.PauseDatabase(ctx, database)
	if err != nil {
		second.Close()
		c.setPause(database, nil)
		return err
	}
	sent.pending = pending
	select {
	case <-pending.Done():
		if err := pending.Err(); err != nil || !c.asks {
			return err
		}
		return c.checkReached(ctx)
	case <-ctx.Done():
		if c.asks { // the move may go on with an open transaction
			if err := c.checkReached(context.WithoutCancel(ctx)); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}
}

// checkReached returns an error unless another console can be opened while the database is paused. Where the console's own user is one that
// pgbouncer asks the database for (auth_dbname), no invocation could log in to resume, if this one died.
func (c *poolerConsole) checkReached(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, errNotReached)
	defer cancel()
	other, err := c.main.OpenAnother(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReached, err)
	}
	other.Close()
	return nil
}

var errNotReached = errors.New("no other console could be opened while the database was paused: put the console's user into auth_file")

// Resume implements Console. A PAUSE that pgbouncer has not read yet is undone too.
func (c *poolerConsole) Resume(ctx context.Context, database string) error {
	sent := c.pauseOf(database)
	if sent == nil || sent.pending == nil {
		return c.main.ResumeDatabase(ctx, database)
	}
	err := c.main.UndoPauseDatabase(ctx, sent.pending, database)
	sent.console.Close() // what the network holds of the PAUSE must not come after a RESUME over another console
	if err != nil {
		c.mutex.Lock()
		c.unread = true
		c.mutex.Unlock()
	}
	if err != nil && !errors.Is(err, pgbouncer.ErrUnread) {
		return err
	}
	c.setPause(database, nil)
	return nil
}

// Unread implements Console.
func (c *poolerConsole) Unread() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.unread
}

const (
	// loginsTime bounds the wait for connections that are being opened. A login takes milliseconds, or a second on a busy server.
	loginsTime = 2 * time.Second
	// loginsInterval is between two looks: a few, while a login takes place.
	loginsInterval = 50 * time.Millisecond
)

// awaitLogins waits until no connection of the database is being opened. pgbouncer takes one that RECONNECT closes for a login that failed,
// and clients that wait for it fail. Whatever goes wrong here, RECONNECT comes all the same.
func (c *poolerConsole) awaitLogins(ctx context.Context, database string) {
	_ = escort.Poll(ctx, time.Now().Add(loginsTime), loginsInterval, func() (bool, error) {
		pools, err := c.main.Pools(ctx)
		return !slices.ContainsFunc(pools, func(p pgbouncer.Pool) bool { return p.Database == database && p.Logins > 0 }), err
	})
}

// Reconnect implements Console. A database that pgbouncer has forgotten has no connections.
func (c *poolerConsole) Reconnect(ctx context.Context, database string) error {
	c.awaitLogins(ctx, database)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), escort.ConsoleTimeout)
	defer cancel()
	if err := c.main.ReconnectDatabase(ctx, database); err != nil && !errors.Is(err, pgbouncer.ErrNoDatabase) {
		return err
	}
	return nil
}

// Close implements Console. What is paused stays paused.
func (c *poolerConsole) Close() {
	c.main.Close()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, p := range c.pauses {
		p.console.Close()
	}
}
