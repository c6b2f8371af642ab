package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// dialer dials as libpq does by default: it waits for as long as the kernel tries, and leaves the times of keepalive to the
// kernel (two hours and eleven minutes on Linux), where Go's default would find a dead peer in two and a half minutes.
var dialer = net.Dialer{
	KeepAlive:       -1,
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1},
}

// connection is a worker's connection. Nothing on it has a time limit: what workers wait for without end is the story.
type connection struct {
	pg     *pgconn.PgConn
	retire time.Time // zero: never
}

func settings(url string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read -url: %w", err)
	}
	config.ConnectTimeout = 0
	config.DialFunc = dialer.DialContext
	return config, nil
}

func connect(config *pgconn.Config) (*connection, error) {
	pg, err := pgconn.ConnectConfig(context.Background(), config)
	if err != nil {
		return nil, err // pgconn says what it connected to
	}
	return &connection{pg: pg}, nil
}

// exec sends one statement in the simple protocol, as a pooler that pools transactions wants it.
func (c *connection) exec(sql string) error {
	if _, err := c.pg.Exec(context.Background(), sql).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (c *connection) isExpired() bool {
	return !c.retire.IsZero() && time.Now().After(c.retire)
}

// close says goodbye, and waits for no answer to it.
func (c *connection) close() {
	_ = c.pg.Close(context.Background()) // what is closed cannot fail any more
}

// drop closes the socket and says nothing: the other side is broken or gone, and a goodbye to it might block.
func (c *connection) drop() {
	_ = c.pg.Conn().Close()
}
