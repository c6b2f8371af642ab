package pgbouncer

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pool is a pair of a database and a user. Mode is what the pool goes by: session, transaction or statement.
type Pool struct {
	Database, User, Mode string

	Clients        int // logged in and not waiting, whether or not they do anything
	ClientsWaiting int // for a connection to the database
	Servers        int // connections to the database that a transaction is on, or in session mode a client
}

// Pools are those of a pooler, without its own for consoles.
type Pools []Pool

// InFlight is how many transactions are under way; of pools in session mode, how many sessions.
func (p Pools) InFlight() int { return p.sum(func(pool Pool) int { return pool.Servers }) }

// Waiting is how many clients wait for their transaction to begin.
func (p Pools) Waiting() int { return p.sum(func(pool Pool) int { return pool.ClientsWaiting }) }

// Clients is how many clients are connected.
func (p Pools) Clients() int {
	return p.sum(func(pool Pool) int { return pool.Clients + pool.ClientsWaiting })
}

// Modes are the modes in use, each once.
func (p Pools) Modes() []string {
	var modes []string
	for _, pool := range p {
		modes = append(modes, pool.Mode)
	}
	slices.Sort(modes)
	return slices.Compact(modes)
}

// HasSessions reports whether any pool with clients gives each of them a connection of its own.
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

// Pools asks for the pools.
func (c *Console) Pools(ctx context.Context) (Pools, error) {
	var pools Pools
	err := c.show(ctx, "pools", func(r *row) {
		if pool := r.pool(); pool.Database != database {
			pools = append(pools, pool)
		}
	})
	return pools, err
}

// pool: sv_active_cancel and sv_being_canceled are there since 1.18.
func (r *row) pool() Pool {
	return Pool{
		Database: r.text("database"), User: r.text("user"), Mode: r.text("pool_mode"),
		Clients: r.number("cl_active"), ClientsWaiting: r.number("cl_waiting"),
		Servers: r.number("sv_active") + r.number("sv_tested") +
			r.numberIfAny("sv_active_cancel") + r.numberIfAny("sv_being_canceled"),
	}
}

// Client is a client's connection to the pooler.
type Client struct {
	Database, User, Addr string

	Since  time.Time // to the second, by the pooler's clock: to be compared with other clients' only
	Linked bool      // it has a connection to the database: it is in a transaction, or in session mode simply there
}

// Clients asks for the clients that are logged in, consoles left out.
func (c *Console) Clients(ctx context.Context) ([]Client, error) {
	var clients []Client
	err := c.show(ctx, "clients", func(r *row) {
		if client := r.client(); client.Database != database {
			clients = append(clients, client)
		}
	})
	return clients, err
}

func (r *row) client() Client {
	return Client{
		Database: r.text("database"), User: r.text("user"), Addr: r.text("addr") + ":" + r.text("port"),
		Since: r.time("connect_time"), Linked: r.text("link") != "",
	}
}

// State tells whether the pooler as a whole is paused, be the pause complete or under way. Before 1.19 that is not known.
func (c *Console) State(ctx context.Context) (paused, known bool, err error) {
	if !c.version.AtLeast(1, 19) {
		return false, false, nil
	}
	err = c.show(ctx, "state", func(r *row) {
		if r.text("key") == "paused" {
			paused, known = r.text("value") == "yes", true
		}
	})
	return paused, known, err
}

// Setting asks for a setting's value.
func (c *Console) Setting(ctx context.Context, name string) (string, error) {
	value, known := "", false
	err := c.show(ctx, "config", func(r *row) {
		if r.text("key") == name {
			value, known = r.text("value"), true
		}
	})
	if err == nil && !known {
		return "", fmt.Errorf("show config: there is no setting %q", name)
	}
	return value, err
}

// show asks for a table and has every row of it read.
func (c *Console) show(ctx context.Context, what string, read func(*row)) error {
	results, err := c.exec(ctx, "SHOW "+what)
	if err != nil {
		return fmt.Errorf("show %s: %w", what, err)
	}
	for r := range rows(results) {
		if read(r); r.err != nil {
			return fmt.Errorf("show %s: %w", what, r.err)
		}
	}
	return nil
}

// row is a row of a table, whose columns go by name. err is the first thing that was wrong with it.
type row struct {
	columns map[string]int
	values  [][]byte
	err     error
}

func rows(results []*pgconn.Result) iter.Seq[*row] {
	return func(yield func(*row) bool) {
		for _, result := range results {
			columns := map[string]int{}
			for i, field := range result.FieldDescriptions {
				columns[field.Name] = i
			}
			for _, values := range result.Rows {
				if !yield(&row{columns: columns, values: values}) {
					return
				}
			}
		}
	}
}

func (r *row) text(column string) string {
	i, has := r.columns[column]
	if !has || i >= len(r.values) {
		r.fail(fmt.Errorf("there is no column %s", column))
		return ""
	}
	return string(r.values[i])
}

func (r *row) number(column string) int {
	n, err := strconv.Atoi(r.text(column))
	if err != nil {
		r.fail(fmt.Errorf("column %s: %w", column, err))
	}
	return n
}

// numberIfAny is 0 where there is no such column.
func (r *row) numberIfAny(column string) int {
	if _, has := r.columns[column]; !has {
		return 0
	}
	return r.number(column)
}

func (r *row) time(column string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05 MST", r.text(column))
	if err != nil {
		r.fail(fmt.Errorf("column %s: %w", column, err))
	}
	return t
}

func (r *row) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}
