package escort

import "context"

// ReadText logs in to a database of the pod's pgbouncer as its clients do, and returns the only value of a query's only row.
func (c Consoles) ReadText(ctx context.Context, p Pod, database, query string) (string, error) {
	read := func(login Login) (string, error) { return c.target(p, login).ReadText(ctx, database, query) }
	return LogIn(c.Logins(ctx, p.Namespace), read, refused)
}
