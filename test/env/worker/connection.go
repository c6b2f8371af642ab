package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// dialer dials as libpq does by default, unless timeout is set. It waits as long as the kernel tries, and it leaves keepalive times to the
// kernel (two hours and eleven minutes on Linux). Go's default would find a dead peer in two and a half minutes.
func dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAlive:       -1,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1},
	}
}

// connection is a worker's connection. Once the peer has answered it has no time limits: that workers wait forever is what the tests must
// show.
type connection struct {
	pg     *pgconn.PgConn
	retire time.Time // zero: never
}

// settings returns how to connect to url. A TCP connection may take dialTimeout, and without one as long as the kernel tries.
func settings(url string, dialTimeout time.Duration) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read -url: %w", err)
	}
	config.ConnectTimeout = 0
	config.DialFunc = dialer(dialTimeout).DialContext
	return config, nil
}

// withLogin returns the settings with the login that a folder has. A kubelet replaces a Secret's files at once, by a link to another folder:
// a user and the password of another one would be refused.
func withLogin(config *pgconn.Config, folder string) (*pgconn.Config, error) {
	if folder == "" {
		return config, nil
	}
	var user, password []byte
	for {
		version, err := os.Readlink(filepath.Join(folder, "..data"))
		if err != nil {
			return nil, fmt.Errorf("read -login: %w", err)
		}
		user, err = os.ReadFile(filepath.Join(folder, version, "username"))
		if err == nil {
			password, err = os.ReadFile(filepath.Join(folder, version, "password"))
		}
		if err == nil {
			break
		}
		if now, _ := os.Readlink(filepath.Join(folder, "..data")); now == version {
			return nil, fmt.Errorf("read -login: %w", err)
		}
	}
	config = config.Copy()
	config.User, config.Password = string(user), string(password)
	return config, nil
}

func connect(config *pgconn.Config, login string) (*connection, error) {
	config, err := withLogin(config, login)
	if err != nil {
		return nil, err
	}
	pg, err := pgconn.ConnectConfig(context.Background(), config)
	if err != nil {
		return nil, err // pgconn names the address
	}
	return &connection{pg: pg}, nil
}

// exec sends one statement in the simple protocol, as transaction pooling requires.
func (c *connection) exec(sql string) error {
	if _, err := c.pg.Exec(context.Background(), sql).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (c *connection) isExpired() bool {
	return !c.retire.IsZero() && time.Now().After(c.retire)
}

// close sends Terminate and does not wait for an answer.
func (c *connection) close() {
	_ = c.pg.Close(context.Background()) // an error changes nothing: the connection is no longer used
}

// drop closes the socket without Terminate: the peer is broken or gone, and a write might block.
func (c *connection) drop() {
	_ = c.pg.Conn().Close()
}
