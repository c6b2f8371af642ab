package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Reload lets pgbouncer read its configuration and its userlist again. Values that Set has changed are lost.
func (c *Console) Reload(ctx context.Context) error {
	if err := c.exec(ctx, "RELOAD", nil); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	return nil
}

// HasUser reports whether pgbouncer knows the user, as from its userlist.
func (c *Console) HasUser(ctx context.Context, name string) (bool, error) {
	has := false
	err := c.show(ctx, "users", func(r *row) { has = r.text("name") == name || has })
	return has, err
}

// Kept returns the server's process IDs of connections to it that are kept for a user, and that no client uses.
func (c *Console) Kept(ctx context.Context, user string) ([]int, error) {
	var processes []int
	err := c.show(ctx, "servers", func(r *row) {
		if r.text("user") != user || r.text("link") != "" {
			return
		}
		process, err := strconv.Atoi(r.text("remote_pid"))
		if err != nil {
			r.fail(errors.New("column remote_pid is not a number"))
			return
		}
		processes = append(processes, process)
	})
	return processes, err
}

// ClientsOf returns the clients of one user, consoles among them.
func (c *Console) ClientsOf(ctx context.Context, user string) ([]Client, error) {
	var clients []Client
	err := c.show(ctx, "clients", func(r *row) {
		if client := r.client(); client.User == user {
			clients = append(clients, client)
		}
	})
	return clients, err
}
