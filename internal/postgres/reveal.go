package postgres

import (
	"context"
	"fmt"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// databases returns all databases of the pooler that are in use, beside those that its configuration has. SHOW DATABASES may leave out one
// that pgbouncer made from the entry "*", though clients use it. Such a database would not be paused. What pgbouncer itself asks for
// passwords, as authUser, is no use.
func (c *poolerConsole) databases(ctx context.Context, pools pgbouncer.Pools, authUser string) ([]pgbouncer.Database, error) {
	shown, err := c.main.Databases(ctx)
	if err != nil {
		return nil, err
	}
	hidden := hiddenFrom(shown, pools, authUser)
	if len(hidden) > maxDatabases {
		return nil, fmt.Errorf("more than %d databases are in use and not shown", maxDatabases)
	}
	for _, name := range hidden {
		if err := c.main.Reveal(ctx, name); err != nil {
			return nil, err
		}
	}
	if len(hidden) == 0 {
		return shown, nil
	}
	if shown, err = c.main.Databases(ctx); err != nil {
		return nil, err
	}
	if hidden = hiddenFrom(shown, pools, authUser); len(hidden) > 0 {
		return nil, fmt.Errorf("database %s is in use and not shown", escort.Printable(hidden[0]))
	}
	return shown, nil
}

// hiddenFrom returns the databases with clients that are not shown. Each open transaction is a client's.
func hiddenFrom(shown []pgbouncer.Database, pools pgbouncer.Pools, authUser string) (hidden []string) {
	known := map[string]bool{}
	for _, d := range shown {
		known[d.Name] = true
	}
	for _, p := range pools {
		if !known[p.Database] && p.Clients+p.ClientsWaiting > 0 && (authUser == "" || p.User != authUser) {
			known[p.Database] = true
			hidden = append(hidden, p.Database)
		}
	}
	return hidden
}
