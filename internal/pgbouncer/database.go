package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Database is an entry of the section [databases], or one that pgbouncer made for a client from the entry "*".
type Database struct {
	Name   string
	Host   string // where pgbouncer connects to: a name, an address, or several with commas; empty: a Unix socket
	Paused bool   // by PAUSE with its name; a PAUSE of everything does not show here
	// ServerLifetime is the database's own server_lifetime, or else the one of pgbouncer; zero: unknown, as before 1.24.
	ServerLifetime time.Duration
}

// Databases returns the databases, except pgbouncer's own.
func (c *Console) Databases(ctx context.Context) ([]Database, error) {
	var databases []Database
	err := c.show(ctx, "databases", func(r *row) {
		if d := r.database(); d.Name != database {
			databases = append(databases, d)
		}
	})
	return databases, err
}

func (r *row) database() Database {
	return Database{
		Name: r.text("name"), Host: r.text("host"), Paused: r.number("paused") != 0,
		ServerLifetime: r.optionalTimeout("server_lifetime"),
	}
}

// OldestTransaction returns for how long the quietest client that holds a connection to the database has sent nothing; zero: no client
// holds one. pgbouncer does not show when a transaction began. So a transaction whose client is busy looks young. In session mode the
// result is the quietest session. The times are of whole seconds, on pgbouncer's own clock: this command is the latest thing that it shows.
func (c *Console) OldestTransaction(ctx context.Context, name string) (time.Duration, error) {
	var now, oldest time.Time
	err := c.show(ctx, "clients", func(r *row) {
		at := r.time("request_time")
		if at.After(now) {
			now = at
		}
		if r.text("link") != "" && r.text("database") == name && (oldest.IsZero() || at.Before(oldest)) {
			oldest = at
		}
	})
	if err != nil || oldest.IsZero() {
		return 0, err
	}
	return now.Sub(oldest), nil
}

// timeLayout is how pgbouncer shows a time, without the name of its time zone, which follows.
const timeLayout = time.DateTime

// time returns a time of pgbouncer's clock. Only times of one table can be compared.
func (r *row) time(column string) time.Time {
	text := r.text(column)
	at, err := time.Parse(timeLayout, text[:min(len(text), len(timeLayout))])
	if err != nil {
		r.fail(fmt.Errorf("column %s: %s is not a time", column, printable(text)))
	}
	return at
}

// PauseDatabase is Pause for one database. Clients of the others go on. Unlike Pause, a database that is paused already is no error.
func (c *Console) PauseDatabase(ctx context.Context, name string) (*Pending, error) {
	command, err := commandFor("PAUSE", name)
	if err != nil {
		return nil, err
	}
	return c.pause(ctx, command)
}

// ResumeDatabase ends a pause of one database, if there is one. It is no error if pgbouncer has no such database any more: then nothing
// of that name is paused.
func (c *Console) ResumeDatabase(ctx context.Context, name string) error {
	command, err := commandFor("RESUME", name)
	if err == nil {
		err = c.exec(ctx, command, nil)
	}
	if err != nil && !errors.Is(err, errNotPaused) && !errors.Is(err, ErrNoDatabase) {
		return fmt.Errorf("resume database: %w", err)
	}
	return nil
}

// UndoPauseDatabase is UndoPause for one database.
func (c *Console) UndoPauseDatabase(ctx context.Context, pause *Pending, name string) error {
	command, err := commandFor("RESUME", name)
	if err != nil {
		return err
	}
	if err := c.undoPause(ctx, pause, command); err != nil && !errors.Is(err, ErrNoDatabase) {
		return err
	}
	return nil
}

// ReconnectDatabase is Reconnect for one database.
func (c *Console) ReconnectDatabase(ctx context.Context, name string) error {
	command, err := commandFor("RECONNECT", name)
	if err == nil {
		err = c.exec(ctx, command, nil)
	}
	if err != nil {
		return fmt.Errorf("reconnect database: %w", err)
	}
	return nil
}

// maxDatabase is the longest name that pgbouncer keeps, in bytes, one less than its MAX_DBNAME
// (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_18_0/include/bouncer.h).
const maxDatabase = 63

// IsPausable reports whether a command can name the database. Others cannot be paused. A client can have pgbouncer make one of any name from
// the entry "*". pgbouncer parses a command with a regular expression, and reads a name in quotes as it is (src/admin.c, cmd_normal_rx).
func IsPausable(name string) bool {
	unfit := func(r rune) bool { return r < ' ' || r == '"' || r == '\'' || r == '\\' || r == ';' || r == 0x7f }
	return name != "" && len(name) <= maxDatabase && name != database && !strings.ContainsFunc(name, unfit)
}

// commandFor returns a command about one database. The name comes from a console or a record, and neither is to be believed.
func commandFor(command, name string) (string, error) {
	if !IsPausable(name) {
		return "", fmt.Errorf("%s: %s is not the name of a database that quiesce pauses", strings.ToLower(command), printable(name))
	}
	return command + ` "` + name + `"`, nil
}
