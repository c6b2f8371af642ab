package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

type worldPooler struct {
	databases []PoolerDatabase
	queryWait time.Duration
	queryTime time.Duration
	quiet     time.Duration // of the oldest transaction
	noConsole bool
	authQuery bool
	shared    bool          // several processes may share its port
	retry     string        // the setting server_login_retry
	longTx    bool          // a transaction never ends
	busy      time.Duration // until the open transactions end
	deaf      bool          // answers nothing once it is paused, for a while
	frozen    bool          // deaf to questions too, so that it is seen before the request
	gone      bool
	restarts  int
	deafFor   time.Duration
	by        *incarnation // that paused it last
	excused   time.Time    // when its console last failed
	letGo     bool         // another's command that stood still has resumed it
	refuses   bool         // proofs fail
	readOnly  bool         // its login may only look
	unread    bool         // a PAUSE may still come through a tunnel
	paused    map[string]time.Time
	longest   time.Duration // that clients of a database waited
}

func newWorldPooler() *worldPooler {
	return &worldPooler{
		retry: "15", queryWait: 2 * time.Minute, paused: map[string]time.Time{},
		databases: []PoolerDatabase{{Name: "app", Host: "pg"}, {Name: "other", Host: "elsewhere"}},
	}
}

// Open implements PoolerConsoles.
func (i *incarnation) Open(ctx context.Context, p escort.Pod) (Console, error) {
	name := strings.TrimPrefix(p.Name, "pooler-")
	if err := i.ask(ctx, "console "+name); err != nil {
		return nil, err
	}
	defer i.enter()()
	if i.poolers[name].noConsole || i.poolers[name].gone {
		return nil, errors.New("login refused")
	}
	return &worldConsole{i, i.poolers[name], name, i.poolers[name].restarts}, nil
}

// ProveWrite implements PoolerConsoles.
func (i *incarnation) ProveWrite(ctx context.Context, p escort.Pod, database string) error {
	if err := i.ask(ctx, "prove "+p.Name); err != nil {
		return err
	}
	defer i.enter()()
	if !i.sim.reaches() || i.serviceTo != i.leader || i.poolers[strings.TrimPrefix(p.Name, "pooler-")].refuses || database != Alias {
		return errors.New("read-only")
	}
	return nil
}

// ReadText implements PoolerConsoles.
func (i *incarnation) ReadText(ctx context.Context, p escort.Pod, database, query string) (string, error) {
	if err := i.ask(ctx, "read "+p.Name); err != nil {
		return "", err
	}
	defer i.enter()()
	if database != Alias || query != workQuery {
		return "", errors.New("no such query")
	}
	return cmp.Or(i.work, `{"recovery":false,"backups":0}`), nil
}

type worldConsole struct {
	*incarnation
	pooler   *worldPooler
	name     string
	restarts int // of the process that it is connected to
}

// ask sends a command, which fails if the process is gone.
func (c *worldConsole) ask(ctx context.Context) error {
	if err := c.incarnation.ask(ctx, "console "+c.name); err != nil {
		return err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.pooler.restarts != c.restarts {
		return errors.New("the connection is closed")
	}
	return nil
}

// command sends a command that changes something. It may stand still on its way.
func (c *worldConsole) command(ctx context.Context) error {
	if !c.sim.standStill(c) {
		return c.ask(ctx)
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.pooler.restarts != c.restarts {
		return errors.New("the connection is closed")
	}
	return nil
}

// changed is called when a command has changed something. The caller holds the mutex.
func (c *worldConsole) changed() {
	if c.doomed && !c.dead {
		c.doomed = false
		c.die()
	}
}

func (c *worldConsole) Look(ctx context.Context) (PoolerState, error) {
	if err := c.ask(ctx); err != nil {
		return PoolerState{}, err
	}
	leave := c.enter()
	if c.pooler.frozen && len(c.pooler.paused) > 0 {
		leave()
		<-ctx.Done()
		return PoolerState{}, context.Cause(ctx)
	}
	defer leave()
	state := PoolerState{
		Databases: slices.Clone(c.pooler.databases), QueryWait: c.pooler.queryWait, QueryTime: c.pooler.queryTime, LoginRetry: c.pooler.retry,
		AuthQuery: c.pooler.authQuery, Shared: c.pooler.shared,
	}
	for i, d := range state.Databases {
		state.Databases[i].Paused = d.Paused || !c.pooler.paused[d.Name].IsZero()
	}
	return state, nil
}

func (c *worldConsole) CheckCommands(ctx context.Context) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	defer c.enter()()
	if c.pooler.readOnly {
		return pgbouncer.ErrNotAdmin
	}
	c.commands++
	return nil
}

func (c *worldConsole) Oldest(ctx context.Context, _ string) (time.Duration, error) {
	if err := c.ask(ctx); err != nil {
		return 0, err
	}
	defer c.enter()()
	return c.pooler.quiet, nil
}

func (c *worldConsole) Pause(ctx context.Context, database string) error {
	if !pgbouncer.IsPausable(database) {
		return errors.New("pause: it is not the name of a database that quiesce pauses")
	}
	if err := c.command(ctx); err != nil {
		return err
	}
	leave := c.enter()
	c.sim.checkPause(c, database)
	c.pooler.paused[database] = time.Now()
	c.effect("pause %s/%s", c.name, database)
	c.changed()
	longTx, busy, restarts := c.pooler.longTx, c.pooler.busy, c.pooler.restarts
	leave()
	if err := escort.Sleep(ctx, busy); err != nil {
		return err
	}
	if err := c.sim.commits(c, restarts); err != nil {
		return err
	}
	if longTx {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	defer c.enter()()
	return c.answer("pause " + c.name)
}

func (c *worldConsole) Resume(ctx context.Context, database string) error {
	if !pgbouncer.IsPausable(database) {
		return errors.New("resume: it is not the name of a database that quiesce pauses")
	}
	if err := c.command(ctx); err != nil {
		return err
	}
	leave := c.enter()
	since := c.pooler.paused[database]
	if deaf := c.pooler.deaf && time.Since(since) < cmp.Or(c.pooler.deafFor, 20*time.Second); deaf {
		leave()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	defer leave()
	if !since.IsZero() {
		c.sim.checkResume(c, database)
		c.pooler.longest = max(c.pooler.longest, time.Since(since))
		delete(c.pooler.paused, database)
		c.effect("resume %s/%s", c.name, database)
		c.changed()
	}
	return c.answer("resume " + c.name)
}

func (c *worldConsole) Reconnect(ctx context.Context, database string) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	defer c.enter()()
	c.effect("reconnect %s/%s", c.name, database)
	return nil
}

func (c *worldConsole) Unread() bool { return c.pooler.unread }

func (c *worldConsole) SetLoginRetry(ctx context.Context, seconds string) error {
	if err := c.command(ctx); err != nil {
		return err
	}
	defer c.enter()()
	c.pooler.retry = seconds
	c.changed()
	return nil
}

func (c *worldConsole) Close() {}
