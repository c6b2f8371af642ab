package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// revealTimeout bounds the wait for the answer to a login. pgbouncer has found the database before it answers, which takes milliseconds.
const revealTimeout = time.Second

// Reveal has SHOW DATABASES show a database that pgbouncer made for a client from the entry "*". While the first client of such a database
// logs in, pgbouncer may put the database among the forgotten ones, and leaves it there although clients use it. The next client's login
// takes it out (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/src/objects.c, find_database). So this begins a login, and
// ends it before it says more than a name. pgbouncer drops an unused database again within a third of a second (janitor.c of the same version,
// do_full_maint), perhaps before SHOW DATABASES. Its answer does not say whether it has the database.
func (c *Console) Reveal(ctx context.Context, name string) error {
	if err := c.target.beginLogin(ctx, name); err != nil {
		return fmt.Errorf("begin a login to database %s: %w", printable(name), err)
	}
	return nil
}

func (t Target) beginLogin(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	raw, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer raw.Close()
	secured, err := t.negotiateTLS(ctx, raw)
	if err != nil {
		return err
	}
	answerBy := time.Now().Add(revealTimeout)
	if end, ends := ctx.Deadline(); ends && end.Before(answerBy) {
		answerBy = end
	}
	if err := secured.SetDeadline(answerBy); err != nil {
		return bounded(err)
	}
	startup := pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": t.User, "database": name, "application_name": "quiesce"},
	}
	text, err := startup.Encode(nil)
	if err == nil {
		_, err = secured.Write(text)
	}
	if err == nil {
		_, err = secured.Read(make([]byte, 1))
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		return bounded(err)
	}
	return nil
}

// isTimeout reports whether a server said nothing in time: a login that needs a lookup in a database, of which none is needed here.
func isTimeout(err error) bool {
	timeout, is := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return is && timeout.Timeout()
}
