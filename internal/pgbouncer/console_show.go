package pgbouncer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pool is the pool of one database and one user. Mode is session, transaction or statement.
type Pool struct {
	Database, User, Mode string

	Clients        int // logged in and not waiting, idle ones included
	ClientsWaiting int // waiting for a connection to the database
	Servers        int // connections to the database that a transaction uses, or in session mode a client
	Logins         int // connections to the database that are being opened
}

// Pools are the pools of a pgbouncer, except its own for consoles.
type Pools []Pool

// InFlight returns the number of open transactions; for pools in session mode, the number of sessions.
func (p Pools) InFlight() int { return p.sum(func(pool Pool) int { return pool.Servers }) }

// Clients returns the number of connected clients.
func (p Pools) Clients() int {
	return p.sum(func(pool Pool) int { return pool.Clients + pool.ClientsWaiting })
}

// Modes returns the modes in use, sorted, each once.
func (p Pools) Modes() []string {
	var modes []string
	for _, pool := range p {
		modes = append(modes, pool.Mode)
	}
	slices.Sort(modes)
	return slices.Compact(modes)
}

// HasSessions reports whether a pool in session mode is in use: there each client has its own connection to the database.
func (p Pools) HasSessions() bool {
	return slices.ContainsFunc(p, func(pool Pool) bool {
		return pool.Mode == "session" && pool.Clients+pool.ClientsWaiting+pool.Servers > 0
	})
}

func (p Pools) sum(of func(Pool) int) (total int) {
	for _, pool := range p {
		total += of(pool)
	}
	return total
}

// Pools returns the pools.
func (c *Console) Pools(ctx context.Context) (Pools, error) {
	var pools Pools
	err := c.show(ctx, "pools", func(r *row) {
		if pool := r.pool(); pool.Database != database {
			pools = append(pools, pool)
		}
	})
	return pools, err
}

// pool returns the row as a Pool. The columns sv_active_cancel and sv_being_canceled exist since 1.18.
func (r *row) pool() Pool {
	return Pool{
		Database: r.text("database"), User: r.text("user"), Mode: r.text("pool_mode"),
		Clients: r.number("cl_active"), ClientsWaiting: r.number("cl_waiting"),
		Servers: r.number("sv_active") + r.number("sv_tested") +
			r.optionalNumber("sv_active_cancel") + r.optionalNumber("sv_being_canceled"),
		Logins: r.optionalNumber("sv_login"),
	}
}

// Client is a client's connection to pgbouncer.
type Client struct {
	Database, User, Addr string
	Application          string // its application_name; empty below 1.18
}

// EachClient calls do for each client that is logged in, except consoles. It keeps none of them.
func (c *Console) EachClient(ctx context.Context, do func(Client)) error {
	return c.show(ctx, "clients", func(r *row) {
		if client := r.client(); client.Database != database {
			do(client)
		}
	})
}

func (r *row) client() Client {
	return Client{
		Database: r.text("database"), User: r.text("user"), Addr: r.text("addr") + ":" + r.text("port"),
		Application: r.optionalText("application_name"),
	}
}

// Streaming returns the databases from which clients receive the write-ahead log, sorted, each once. Such a client keeps its connection to
// the server, whatever the mode of the pool. pgbouncer serves none before 1.23. It asks for connections to servers, which are few
// (https://www.pgbouncer.org/usage.html#show-servers).
func (c *Console) Streaming(ctx context.Context) (databases []string, err error) {
	if !c.version.AtLeast(1, 23) {
		return nil, nil
	}
	err = c.show(ctx, "servers", func(r *row) {
		mode, name := r.optionalText("replication"), r.text("database")
		if mode != "" && mode != "none" && r.text("link") != "" && !slices.Contains(databases, name) {
			databases = append(databases, name)
		}
	})
	slices.Sort(databases)
	return databases, err
}

// Setting returns the value of a setting.
func (c *Console) Setting(ctx context.Context, name string) (string, error) {
	value, known := "", false
	err := c.show(ctx, "config", func(r *row) {
		if r.text("key") == name {
			value, known = r.text("value"), true
		}
	})
	if err == nil && !known {
		return "", fmt.Errorf("show config: no setting %q", name)
	}
	return value, err
}

// Timeout returns the value of a setting that is in seconds. Many take zero for no limit.
func (c *Console) Timeout(ctx context.Context, name string) (time.Duration, error) {
	text, err := c.Setting(ctx, name)
	if err != nil {
		return 0, err
	}
	seconds, err := settingValue(name, text, maxTimeout)
	return inSeconds(seconds), err
}

func inSeconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// IsPaused reports whether pgbouncer is paused or suspended as a whole, by any administrator. The error is ErrUnsupported before 1.19.
func (c *Console) IsPaused(ctx context.Context) (paused bool, err error) {
	if !c.version.AtLeast(1, 19) {
		return false, fmt.Errorf("show state: %w", ErrUnsupported)
	}
	err = c.show(ctx, "state", func(r *row) {
		paused = paused || r.text("key") != "active" && r.text("value") == "yes"
	})
	return paused, err
}

// CheckAlone returns ErrShared if several processes may listen on the port (https://www.pgbouncer.org/config.html#so_reuseport). The
// setting exists since 1.12, and does not change while pgbouncer runs.
func (c *Console) CheckAlone(ctx context.Context) error {
	shared := false
	err := c.show(ctx, "config", func(r *row) {
		shared = shared || r.text("key") == "so_reuseport" && r.text("value") != "0"
	})
	if err == nil && shared {
		return ErrShared
	}
	return err
}

// show calls read for each row of a SHOW table, until a read fails.
func (c *Console) show(ctx context.Context, what string, read func(*row)) error {
	if err := c.exec(ctx, "SHOW "+what, read); err != nil {
		return fmt.Errorf("show %s: %w", what, err)
	}
	return nil
}

// row is a row of a table, read by column name. err is the first error of such a read.
type row struct {
	columns map[string]int
	values  [][]byte
	err     error
}

// readRows calls read for each row, until a read fails, and returns that error. It keeps no row, and reads to the end of the answer.
func readRows(results *pgconn.MultiResultReader, read func(*row)) error {
	var failure error
	for results.NextResult() {
		result := results.ResultReader()
		columns := map[string]int{}
		for i, field := range result.FieldDescriptions() {
			columns[field.Name] = i
		}
		r := row{columns: columns}
		for result.NextRow() {
			if r.values = result.Values(); read != nil && failure == nil {
				read(&r)
				failure = r.err
			}
		}
		_, _ = result.Close() // the error is that of results
	}
	return failure
}

func (r *row) text(column string) string {
	i, has := r.columns[column]
	if !has || i >= len(r.values) {
		r.fail(fmt.Errorf("no column %s", column))
		return ""
	}
	return string(r.values[i])
}

// maxCount is more than any table counts: clients, or connections to a database.
const maxCount = 1_000_000

// number returns a count.
func (r *row) number(column string) int {
	text := r.text(column)
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		r.fail(fmt.Errorf("column %s: %s is not a number from 0 to %d", column, printable(text), maxCount))
		return 0
	}
	return n
}

// optionalText returns nothing if there is no such column.
func (r *row) optionalText(column string) string {
	if _, has := r.columns[column]; !has {
		return ""
	}
	return r.text(column)
}

// optionalNumber returns 0 if there is no such column.
func (r *row) optionalNumber(column string) int {
	if _, has := r.columns[column]; !has {
		return 0
	}
	return r.number(column)
}

// optionalTimeout returns a setting in seconds, or 0 if there is no such column.
func (r *row) optionalTimeout(column string) time.Duration {
	if _, has := r.columns[column]; !has {
		return 0
	}
	seconds, err := settingValue(column, r.text(column), maxTimeout)
	if err != nil {
		r.fail(err)
	}
	return inSeconds(seconds)
}

func (r *row) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}
