package pgbouncer

import (
	"context"
	"fmt"
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
