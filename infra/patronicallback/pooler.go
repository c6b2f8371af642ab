package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"quiesce/internal/pgbouncer"
)

const (
	// openTime bounds the login to all poolers before PostgreSQL stops. A healthy console answers in milliseconds.
	openTime = 2 * time.Second
	// waitShare is the share of query_wait_timeout and of query_timeout, in percent, for which clients are held at most. At the end of either
	// one pgbouncer fails them.
	waitShare = 75
	// revealTries is how often a look has pgbouncer show a database that it drops. It drops them three times a second, so more than two failed
	// tries are rare, on a slow machine too. A database that a pooler lacks costs that many logins once.
	revealTries = 5
)

// pooler is one pgbouncer. It is used by one goroutine.
type pooler struct {
	address   string
	target    pgbouncer.Target
	wanted    []string // databases
	lacks     []string // those of them that it did not have at the last look
	aliasName string

	console *pgbouncer.Console // nil: not open
	mark    mark
	pauses  []*pause
	others  others
}

// pause is the PAUSE of one database, and the console that waits for its answer.
type pause struct {
	database string
	console  *pgbouncer.Console
	pending  *pgbouncer.Pending
	seen     bool // a look has shown the database as paused
}

// view is what a pooler shows.
type view struct {
	databases []string // of those wanted
	paused    bool     // one of these is
	others    []string // other databases that are paused
	sessions  bool     // one of these is in session mode
	streams   bool     // a client of one of these receives the write-ahead log
	alias     bool
	retry     string        // server_login_retry
	limit     time.Duration // for which its clients may be held
}

func newPooler(address string, t pgbouncer.Target, o options) *pooler {
	t.Dial = func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
	return &pooler{address: address, target: t, wanted: list(o.databases), aliasName: o.alias}
}

// open opens the console, unless it is open.
func (p *pooler) open(ctx context.Context) (err error) {
	if p.console != nil && p.console.Usable() {
		return nil
	}
	p.console, err = pgbouncer.Open(ctx, p.target)
	return err
}

// close closes all consoles. What is paused stays paused.
func (p *pooler) close() {
	if p.console != nil {
		p.console.Close()
	}
	for _, sent := range p.pauses {
		sent.console.Close()
	}
	p.pauses = nil
}

// look opens the console if necessary, and returns what it shows.
func (p *pooler) look(ctx context.Context) (v view, err error) {
	if err := p.open(ctx); err != nil {
		return v, err
	}
	all, err := p.shown(ctx)
	if err != nil {
		return v, err
	}
	for _, d := range all {
		v.alias = v.alias || d.Name == p.aliasName
		if slices.Contains(p.wanted, d.Name) {
			v.databases = append(v.databases, d.Name)
			v.paused = v.paused || d.Paused
			p.note(d)
		} else if d.Paused {
			v.others = append(v.others, d.Name)
		}
	}
	if v.retry, err = p.console.Setting(ctx, pgbouncer.ServerLoginRetry); err != nil {
		return v, err
	}
	return v, nil
}

// shown returns the databases, and all wanted ones that pgbouncer has. One that it made from the entry "*" may be in use and not shown, or
// paused and not shown: the latter when its last client has disconnected. pgbouncer may drop that one again before it shows it.
func (p *pooler) shown(ctx context.Context) (all []pgbouncer.Database, err error) {
	if all, err = p.console.Databases(ctx); err != nil {
		return nil, err
	}
	hidden := p.hidden(all)
	if known := slices.Equal(hidden, p.lacks); known || len(hidden) == 0 {
		p.lacks = hidden
		return all, nil
	}
	for range revealTries {
		for _, name := range hidden {
			if err := p.console.Reveal(ctx, name); err != nil {
				return nil, err
			}
		}
		if all, err = p.console.Databases(ctx); err != nil {
			return nil, err
		}
		if hidden = p.hidden(all); len(hidden) == 0 {
			break
		}
	}
	p.lacks = hidden
	return all, nil
}

// hidden returns the wanted databases that are not among the shown ones.
func (p *pooler) hidden(shown []pgbouncer.Database) (names []string) {
	for _, name := range p.wanted {
		if !slices.ContainsFunc(shown, func(d pgbouncer.Database) bool { return d.Name == name }) {
			names = append(names, name)
		}
	}
	return names
}

// lookBefore is look, with what matters before a pause.
func (p *pooler) lookBefore(ctx context.Context, most time.Duration) (v view, err error) {
	if v, err = p.look(ctx); err != nil {
		return v, err
	}
	if err := p.console.CheckAlone(ctx); err != nil {
		return v, err
	}
	pools, err := p.console.Pools(ctx)
	if err != nil {
		return v, err
	}
	pools = slices.DeleteFunc(pools, func(pool pgbouncer.Pool) bool { return !slices.Contains(v.databases, pool.Database) })
	v.sessions = pools.HasSessions()
	streaming, err := p.console.Streaming(ctx)
	if err != nil {
		return v, err
	}
	v.streams = slices.ContainsFunc(streaming, func(name string) bool { return slices.Contains(v.databases, name) })
	v.limit = most
	for _, name := range []string{pgbouncer.QueryWaitTimeout, pgbouncer.QueryTimeout} {
		wait, err := p.console.Timeout(ctx, name)
		if err != nil {
			return v, err
		}
		if wait > 0 {
			v.limit = min(v.limit, wait*waitShare/100)
		}
	}
	return v, nil
}

// refuse returns why the pooler is left alone; nil: it can be paused.
func (v view) refuse() error {
	marked := v.markedPause()
	switch {
	case len(v.databases) == 0:
		return errors.New("it has none of the databases")
	case v.paused && !marked:
		return errors.New("another administrator has paused it")
	case marked && !v.paused && len(v.others) > 0:
		return errors.New("the callback of another cluster has paused it")
	case v.sessions:
		return errors.New("it has clients in session mode, which a pause would wait for")
	case v.streams:
		return errors.New("it has a replication client, which a pause would wait for")
	}
	return nil
}

// ours reports whether a callback of this cluster has paused the pooler.
func (v view) ours() bool { return v.paused && v.markedPause() }

func (v view) markedPause() bool {
	m, marked := readMark(v.retry)
	return marked && m.isPause()
}

// leftover reports whether the mark is left from a pause that is over, and returns it.
func (v view) leftover() (m mark, is bool) {
	m, marked := readMark(v.retry)
	return m, marked && (!m.isPause() || !v.paused && len(v.others) == 0)
}

// pause marks the pooler, and sends a PAUSE for each of its databases. Once it has returned true, the pooler may be paused, whatever else
// went wrong.
func (p *pooler) pause(ctx context.Context, v view, number int) (marked bool, err error) {
	if p.mark, err = newMark(v.retry, number); err != nil {
		return false, err
	}
	p.others = others{takesOver: v.ours(), before: v.others}
	// A login that may only read fails here. If only the answer is lost, the mark may be there: then it is taken away again.
	if err := p.console.Set(ctx, pgbouncer.ServerLoginRetry, p.mark.value()); err != nil {
		return !errors.Is(err, pgbouncer.ErrNotAdmin), err
	}
	var errs []error
	for _, database := range v.databases {
		errs = append(errs, p.pauseDatabase(ctx, database))
	}
	return true, errors.Join(errs...)
}

func (p *pooler) pauseDatabase(ctx context.Context, database string) error {
	second, err := p.console.OpenAnother(ctx)
	if err != nil {
		return err
	}
	pending, err := second.PauseDatabase(ctx, database)
	if err != nil {
		second.Close()
		return err
	}
	p.pauses = append(p.pauses, &pause{database: database, console: second, pending: pending})
	return nil
}

// await waits until no transaction is open any more, or ctx ends.
func (p *pooler) await(ctx context.Context) error {
	for _, sent := range p.pauses {
		select {
		case <-sent.pending.Done():
			if err := sent.pending.Err(); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("database %.63s: transactions did not end in time", sent.database)
		}
	}
	return nil
}

// resume resumes every database, and changes the mark. It reports false if the pause is over. The error is errForeign while another
// callback is in charge of the pause.
func (p *pooler) resume(ctx context.Context) (did bool, err error) {
	v, err := p.look(ctx)
	if err != nil {
		return false, err
	}
	switch p.stateOf(v, time.Now()) {
	case ended:
		return false, nil
	case foreign:
		return false, errForeign
	}
	for _, database := range p.wanted {
		if err := p.resumeDatabase(ctx, database); err != nil {
			return false, err
		}
	}
	if !p.isOurMark(v.retry) {
		return true, nil // it may be that of another cluster's pause
	}
	return true, p.console.Set(ctx, pgbouncer.ServerLoginRetry, p.mark.asResumed().value())
}

// resumeDatabase resumes a database, even if pgbouncer has not read our PAUSE yet.
func (p *pooler) resumeDatabase(ctx context.Context, database string) error {
	i := slices.IndexFunc(p.pauses, func(sent *pause) bool { return sent.database == database })
	if i < 0 {
		return p.console.ResumeDatabase(ctx, database)
	}
	if err := p.console.UndoPauseDatabase(ctx, p.pauses[i].pending, database); err != nil {
		return err
	}
	p.pauses[i].console.Close()
	p.pauses = slices.Delete(p.pauses, i, i+1)
	return nil
}

// finish restores the setting, unless it is restored already. With reconnect, it renews the connections. It does so though another callback has
// restored the setting first: the old leader's does not know of the promotion.
func (p *pooler) finish(ctx context.Context, reconnect bool) error {
	v, err := p.look(ctx)
	if err != nil {
		return err
	}
	var errs []error
	if reconnect && !v.paused && len(v.others) == 0 {
		for _, database := range v.databases {
			errs = append(errs, p.console.ReconnectDatabase(ctx, database))
		}
	}
	if m, is := v.leftover(); is {
		errs = append(errs, p.console.Set(ctx, pgbouncer.ServerLoginRetry, m.formerValue()))
	}
	return errors.Join(errs...)
}
