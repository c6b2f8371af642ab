package pgbouncer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// maxValue bounds the value that ReadText returns, in bytes. Messages are bounded too: see maxMessage.
const maxValue = 12 << 10

// ErrNoText is the error of a query whose answer is not one short text.
var ErrNoText = errors.New("the answer is not one text")

// ReadText logs in to a database as any client does, and returns the only value of a query's only row. It takes loginTimeout at most. The
// transaction is read-only, so that the query changes nothing, whatever it calls.
func (t Target) ReadText(ctx context.Context, name, query string) (value string, err error) {
	err = t.inDatabase(ctx, name, func(ctx context.Context, session *pgconn.PgConn) (err error) {
		value, err = onlyValue(session.Exec(ctx, "BEGIN READ ONLY; "+query+"; COMMIT"))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read from a database: %w", err)
	}
	return value, nil
}

// onlyValue returns the value of the only row, which has one column.
func onlyValue(results *pgconn.MultiResultReader) (value string, err error) {
	rows := 0
	for results.NextResult() {
		result := results.ResultReader()
		for result.NextRow() {
			if rows++; rows > 1 || len(result.Values()) != 1 || len(result.Values()[0]) > maxValue {
				err = ErrNoText
				continue
			}
			value = string(result.Values()[0])
		}
		_, _ = result.Close() // the error is that of results
	}
	if failure := results.Close(); failure != nil {
		return "", bounded(failure)
	}
	if err != nil || rows == 0 {
		return "", ErrNoText
	}
	return value, nil
}
